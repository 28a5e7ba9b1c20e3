//! A schema registry, by the REST interface that Confluent's has, and others after it.
//!
//! Enters: the URL of a registry, numbers and subjects. Leaves: schemas, with those that they refer to. Always holds: a
//! schema of a number never changes, so it is asked for once; a registry that does not answer is asked again for a
//! while, and then an error, never a message that is taken for bad.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{RegistryOptions, resolve};
use crate::error::{Error, Result};

/// How often a registry is asked that does not answer, and how long it is waited for the first time; then twice as long.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// Avro.
    Avro,
    /// Protocol buffers.
    Protobuf,
    /// JSON Schema: the values are JSON.
    Json,
}

/// A schema.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its language.
    pub kind: SchemaKind,
    /// What it says.
    pub text: String,
    /// The names and texts of those that it imports, each behind those that it imports itself.
    pub references: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    schema: String,
    schema_type: Option<String>,
    id: Option<u32>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

/// A registry.
#[derive(Debug, Clone)]
pub struct Registry {
    url: Url,
    client: Client,
    user: Option<(String, Option<String>)>,
}

impl Registry {
    /// The one that OPTIONS name; nothing if they name none.
    pub fn of(options: &RegistryOptions) -> Result<Option<Self>> {
        let Some(text) = &options.url else {
            return Ok(None);
        };
        let usage =
            |message: &str| Error::sql(message.to_owned()).hint("OPTIONS ('schema_registry' 'http://host:8081')");
        let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        let mut url = url.ok_or_else(|| usage("schema_registry is a URL, http:// or https://"))?;
        if !url.username().is_empty() || url.password().is_some() {
            // It may be a password: it is not shown.
            return Err(usage("the URL of schema_registry has no user and no password in it")
                .note("OPTIONS ('schema_registry.user' 'name', 'schema_registry.password' 'env:PASSWORD') name them"));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let password = options.password.as_deref().map(|text| resolve("schema_registry.password", text)).transpose()?;
        let user = options.user.as_deref().map(|text| resolve("schema_registry.user", text)).transpose()?;
        let user = user.map(|user| (user, password));
        let client = Client::builder().timeout(PATIENCE).build();
        let client = client.map_err(|error| Error::query(format!("no client of HTTP: {error}")))?;
        Ok(Some(Self { url, client, user }))
    }

    async fn once(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, String), String> {
        let url = self.url.join(path).map_err(|error| error.to_string())?;
        let mut request = self.client.request(method.clone(), url);
        request = request.header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, password.as_ref());
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/vnd.schemaregistry.v1+json").body(body.to_string());
        }
        let told = |error: reqwest::Error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        };
        let answer = request.send().await.map_err(told)?;
        let status = answer.status();
        Ok((status, answer.text().await.map_err(told)?))
    }

    /// The answer to a request; nothing if what is asked for is not there.
    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Option<T>> {
        let (mut tries, mut pause) = (0, PAUSE);
        loop {
            tries += 1;
            let answer = self.once(&method, path, body.as_ref()).await;
            let reason = match answer {
                Ok((StatusCode::NOT_FOUND, _)) => return Ok(None),
                Ok((status, text)) if status.is_success() => {
                    return serde_json::from_str(&text).map(Some).map_err(|error| {
                        Error::query(format!("{}{path}: the answer is not one of a schema registry: {error}", self.url))
                    });
                }
                Ok((status, text)) if status.is_server_error() => format!("{status} {}", short(&text)),
                Ok((status, text)) => {
                    return Err(Error::query(format!("{}{path}: {status}: {}", self.url, short(&text))));
                }
                Err(reason) => reason,
            };
            if tries == TRIES {
                return Err(Error::query(format!("the schema registry {} does not answer: {reason}", self.url))
                    .hint("the same command goes on from the last epoch"));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn whole(&self, answer: Answer) -> Result<Registered> {
        let kind = match answer.schema_type.as_deref() {
            None | Some("AVRO") => SchemaKind::Avro,
            Some("PROTOBUF") => SchemaKind::Protobuf,
            Some("JSON") => SchemaKind::Json,
            Some(other) => return Err(Error::query(format!("a schema of the unknown kind {other}"))),
        };
        let mut references = Vec::new();
        let mut open = answer.references;
        while let Some(reference) = open.pop() {
            if references.iter().any(|(name, _)| *name == reference.name) {
                continue;
            }
            let path = format!("subjects/{}/versions/{}", escaped(&reference.subject), reference.version);
            let found: Option<Answer> = self.ask(Method::GET, &path, None).await?;
            let found = found.ok_or_else(|| Error::query(format!("{}{path} is not there", self.url)))?;
            references.push((reference.name, found.schema));
            open.extend(found.references);
        }
        references.reverse();
        Ok(Registered { kind, text: answer.schema, references })
    }

    /// The schema of a number; nothing if there is none.
    pub async fn by_id(&self, id: u32) -> Result<Option<Registered>> {
        match self.ask(Method::GET, &format!("schemas/ids/{id}"), None).await? {
            Some(answer) => self.whole(answer).await.map(Some),
            None => Ok(None),
        }
    }

    /// The newest schema of a subject, and its number; nothing if there is none.
    pub async fn latest(&self, subject: &str) -> Result<Option<(u32, Registered)>> {
        let path = format!("subjects/{}/versions/latest", escaped(subject));
        let Some(answer) = self.ask::<Answer>(Method::GET, &path, None).await? else { return Ok(None) };
        let id = answer.id.ok_or_else(|| Error::query(format!("{}{path}: the answer has no id", self.url)))?;
        Ok(Some((id, self.whole(answer).await?)))
    }

    /// Makes a schema of Avro the newest of a subject; its number, which is that of the same schema if it is there.
    ///
    /// # Errors
    /// One that the registry refuses, such as one that readers of those before could not read.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        #[derive(Deserialize)]
        struct Number {
            id: u32,
        }
        let path = format!("subjects/{}/versions", escaped(subject));
        let number: Option<Number> = self.ask(Method::POST, &path, Some(json!({ "schema": schema }))).await?;
        let number = number.ok_or_else(|| Error::query(format!("{}{path} is not there", self.url)))?;
        Ok(number.id)
    }
}

fn escaped(subject: &str) -> String {
    percent_encoding::utf8_percent_encode(subject, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The message of an answer, or its beginning.
fn short(text: &str) -> String {
    let message = serde_json::from_str::<Value>(text).ok();
    let message = message.as_ref().and_then(|value| value.get("message")).and_then(Value::as_str);
    message.unwrap_or(text).chars().take(300).collect()
}
