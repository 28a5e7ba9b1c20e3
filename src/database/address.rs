//! Where a table is.
//!
//! Enters: LOCATION and OPTIONS. Leaves: an [`Address`]. Always holds: what it prints has no password in it, and a
//! password that is named by `env:` or `file:` is looked up when it is needed and kept nowhere else.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use super::lake::{self, Lake};
use crate::error::{Error, Result, near_name};

/// A database system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
    /// A folder with a log of its versions.
    Delta,
}

impl System {
    /// As errors name it.
    pub fn name(self) -> &'static str {
        match self {
            System::Sqlite => "SQLite",
            System::Postgres => "Postgres",
            System::Delta => "Delta",
        }
    }
}

/// A table in a database.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    system: System,
    place: Place,
    table: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    /// A URL, its password apart.
    Server {
        url: Url,
        password: Option<String>,
    },
    Lake(Lake),
}

impl Address {
    /// The table that a statement names; `others`: options that have nothing to do with where it is.
    pub fn of(
        system: System,
        locations: &[String],
        options: &HashMap<String, String>,
        others: &[&str],
    ) -> Result<Self> {
        let location = system.only(locations)?;
        let option = |name: &str| options.get(name).or_else(|| options.get(&format!("format.{name}")));
        system.expect_options(options, others)?;
        let Some(table) = option("table").map(|table| table.trim().to_owned()).filter(|table| !table.is_empty()) else {
            return Err(
                Error::sql(format!("which table of {}?", system.name())).hint("OPTIONS ('table' 'name') says it")
            );
        };
        if table == super::EPOCHS || table.ends_with(&format!(".{}", super::EPOCHS)) {
            return Err(Error::sql(format!("{} is fuse's own: it says which epochs a database holds", super::EPOCHS)));
        }
        let place = match system {
            System::Sqlite => file(location)?,
            System::Postgres => server(location, option("password"))?,
            System::Delta => return Err(Error::sql("a Delta table is no table of a database")),
        };
        Ok(Self { system, place, table })
    }

    /// A Delta table.
    pub fn of_lake(lake: Lake) -> Self {
        let table = lake.name();
        Self { system: System::Delta, place: Place::Lake(lake), table }
    }

    /// The Delta table that it is.
    pub fn lake(&self) -> Option<&Lake> {
        match &self.place {
            Place::Lake(lake) => Some(lake),
            _ => None,
        }
    }

    /// The system.
    pub fn system(&self) -> System {
        self.system
    }

    /// The table, as the statement names it.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The database, without its table: equal for tables of one database.
    pub fn database(&self) -> String {
        match &self.place {
            Place::File(path) => path.display().to_string(),
            Place::Server { url, .. } => url.to_string(),
            Place::Lake(lake) => lake.to_string(),
        }
    }

    /// The file of a database that is one.
    pub(super) fn path(&self) -> &Path {
        match &self.place {
            Place::File(path) => path,
            Place::Server { .. } | Place::Lake(_) => Path::new(""),
        }
    }

    /// True if the database is a file or folder, and not there.
    pub(super) fn is_missing(&self) -> bool {
        match &self.place {
            Place::File(path) => !path.exists(),
            Place::Server { .. } => false,
            Place::Lake(lake) => lake.is_missing(),
        }
    }

    /// The URL of the server, without a password.
    pub(super) fn url(&self) -> Option<&Url> {
        match &self.place {
            Place::Server { url, .. } => Some(url),
            Place::File(_) | Place::Lake(_) => None,
        }
    }

    /// The password, looked up where it is named.
    pub(super) fn password(&self) -> Result<Option<String>> {
        match &self.place {
            Place::Server { password: Some(password), .. } => resolved(password).map(Some),
            _ => Ok(None),
        }
    }
}

impl System {
    /// The names of its options.
    fn options(self) -> &'static [&'static str] {
        match self {
            System::Sqlite => &["table"],
            System::Postgres => &["table", "password"],
            System::Delta => &lake::OPTIONS,
        }
    }

    /// The one LOCATION of a table.
    ///
    /// # Errors
    /// None, or several.
    pub fn only(self, locations: &[String]) -> Result<&str> {
        match locations {
            [location] => Ok(location),
            _ => Err(Error::sql(format!("a table STORED AS {} has one LOCATION", self.name().to_uppercase()))),
        }
    }

    /// Refuses options that it does not have; `others`: those that have nothing to do with where a table is.
    ///
    /// # Errors
    /// An unknown option, with one of a name like it.
    pub fn expect_options(self, options: &HashMap<String, String>, others: &[&str]) -> Result<()> {
        let known = [self.options(), others].concat();
        let plain = |name: &'_ String| name.strip_prefix("format.").unwrap_or(name).to_owned();
        let Some(unknown) = options.keys().map(plain).find(|name| !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let error = Error::sql(format!("a table STORED AS {} has no option '{unknown}'", self.name().to_uppercase()));
        Err(match near_name(&unknown, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint(format!("options are {}", known.join(", "))),
        })
    }
}

fn file(location: &str) -> Result<Place> {
    let path = location.strip_prefix("sqlite://").or_else(|| location.strip_prefix("file://")).unwrap_or(location);
    if path.contains("://") || path.is_empty() || path.ends_with('/') {
        return Err(Error::sql(format!("'{location}' is no SQLite database"))
            .hint("its LOCATION is a local file, such as 'out.db'"));
    }
    let path = std::path::absolute(path).map_err(|error| Error::io(path, &error))?;
    if path.is_dir() {
        return Err(Error::sql(format!("'{location}' is a folder, and a SQLite database is a file")));
    }
    Ok(Place::File(path))
}

fn server(location: &str, password: Option<&String>) -> Result<Place> {
    let usage = "such as 'postgres://user@host:5432/database', the password in OPTIONS ('password' 'env:NAME')";
    let location = match location.strip_prefix("env:") {
        Some(_) => resolved(location)?,
        None => location.to_owned(),
    };
    // What is wrong is not shown: there may be a password in it.
    let url = Url::parse(&location).ok().filter(|url| matches!(url.scheme(), "postgres" | "postgresql"));
    let mut url = url.ok_or_else(|| Error::sql("the LOCATION of a Postgres table is a URL").hint(usage))?;
    let inside = url.password().map(|text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned());
    let both = inside.is_some() && password.is_some();
    let _ = url.set_password(None);
    if both {
        return Err(Error::sql("the password is given twice: in LOCATION and in OPTIONS"));
    }
    if let Some((name, _)) = url.query_pairs().find(|(name, _)| name == "password") {
        return Err(Error::sql(format!("'{name}' in the query of LOCATION would be shown")).hint(usage));
    }
    Ok(Place::Server { url, password: password.cloned().or(inside) })
}

/// What `env:NAME` and `file:PATH` stand for; else the text itself.
fn resolved(text: &str) -> Result<String> {
    if let Some(name) = text.strip_prefix("env:") {
        return std::env::var(name)
            .map_err(|_| Error::sql(format!("the environment has no variable {name}, which 'env:{name}' stands for")));
    }
    if let Some(path) = text.strip_prefix("file:") {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(text.to_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Server { url, .. } => write!(f, "{url}"),
            Place::Lake(lake) => write!(f, "{lake}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Lake(lake) => write!(f, "Delta table {lake}"),
            _ => write!(f, "table {} of {self}", self.table),
        }
    }
}
