//! Messages of Protobuf, as objects of JSON.
//!
//! Enters: a `.proto` text, with those that it imports, and messages. Leaves: a line of JSON for each, members named as
//! in the text; a member that a message does not have is there with its default. Always holds: which of the messages of
//! the text it is stands before each, where the text is of a registry.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use crate::error::{Error, Result, near_name};

/// The name of the text itself.
const MAIN: &str = "main.proto";

/// Reads messages of one text.
#[derive(Debug)]
pub(super) struct Messages {
    pool: DescriptorPool,
    /// The one that all are, where their place does not stand before them.
    only: Option<MessageDescriptor>,
}

/// Texts by the names by which they are imported.
struct Texts(Vec<(String, String)>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> std::result::Result<File, protox::Error> {
        match self.0.iter().find(|(known, _)| known == name) {
            Some((name, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

impl Messages {
    pub(super) fn new(text: &str, references: &[(String, String)]) -> Result<Self> {
        let mut texts = references.to_vec();
        texts.push((MAIN.to_owned(), text.to_owned()));
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts(texts));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        let wrong =
            |error: &dyn std::fmt::Display| Error::query(format!("a text of Protobuf that cannot be read: {error}"));
        compiler.include_imports(true).open_file(MAIN).map_err(|error| wrong(&error))?;
        Ok(Self { pool: compiler.descriptor_pool(), only: None })
    }

    /// All are of that name, or the first of the text.
    pub(super) fn named(mut self, name: Option<&str>) -> Result<Self> {
        let found = match name {
            None => self.at(&[0]),
            Some(name) => {
                let mut all = self.pool.all_messages();
                all.find(|message| message.full_name() == name || message.name() == name)
            }
        };
        self.only = Some(found.ok_or_else(|| {
            let names: Vec<String> = self.pool.all_messages().map(|message| message.full_name().to_owned()).collect();
            let error = Error::sql(format!("the text has no message {}", name.unwrap_or_default()));
            match name.and_then(|name| near_name(name, names.iter().map(String::as_str))) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint(format!("OPTIONS ('message' '…') names one of {}", names.join(", "))),
            }
        })?);
        Ok(self)
    }

    /// The message at a place: of the text, then within each message.
    fn at(&self, places: &[usize]) -> Option<MessageDescriptor> {
        let (first, rest) = places.split_first()?;
        let mut message = self.pool.get_file_by_name(MAIN)?.messages().nth(*first)?;
        for place in rest {
            let child = message.child_messages().nth(*place)?;
            message = child;
        }
        Some(message)
    }

    /// The line of a message. `framed`: its place stands before it.
    pub(super) fn line(&self, body: &[u8], framed: bool) -> Result<Vec<u8>, String> {
        let mut rest = body;
        let message = match (&self.only, framed) {
            (Some(only), false) => only.clone(),
            _ => {
                let places = places(&mut rest).ok_or("the place of its message does not stand before it")?;
                self.at(&places).ok_or_else(|| format!("the text has no message at the place {places:?}"))?
            }
        };
        let value = DynamicMessage::decode(message, rest).map_err(|error| error.to_string())?;
        let options = SerializeOptions::new()
            .stringify_64_bit_integers(false)
            .use_proto_field_name(true)
            .skip_default_fields(false);
        let mut text = Vec::new();
        value
            .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
            .map_err(|error| error.to_string())?;
        Ok(text)
    }

    pub(super) fn columns(&self) -> Result<SchemaRef> {
        let message = self.only.clone().or_else(|| self.at(&[0]));
        let message = message.ok_or_else(|| Error::query("the text of Protobuf has no message"))?;
        Ok(Arc::new(Schema::new(fields(&message, &mut Vec::new())?)))
    }
}

/// Reads the places of a message: how many, and each; a zero alone is the first message.
fn places(rest: &mut &[u8]) -> Option<Vec<usize>> {
    let count = zigzag(rest)?;
    if count == 0 {
        return Some(vec![0]);
    }
    (0..count).map(|_| zigzag(rest)).collect()
}

/// A number of variable length, positive, with its sign in its last bit.
fn zigzag(rest: &mut &[u8]) -> Option<usize> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
    (value & 1 == 0).then_some(usize::try_from(value >> 1).ok()?)
}

/// The columns of a message; `within`: the messages that it is in.
fn fields(message: &MessageDescriptor, within: &mut Vec<String>) -> Result<Fields> {
    if within.iter().any(|name| name == message.full_name()) {
        return Err(Error::sql(format!("a message {} is in itself, and has no end of columns", message.full_name()))
            .hint("declare the columns that are wanted"));
    }
    within.push(message.full_name().to_owned());
    let all =
        message.fields().map(|field| -> Result<Field> { Ok(Field::new(field.name(), kind(&field, within)?, true)) });
    let all = all.collect::<Result<Vec<_>>>()?;
    within.pop();
    Ok(all.into())
}

fn kind(field: &FieldDescriptor, within: &mut Vec<String>) -> Result<DataType> {
    if field.is_map() {
        // JSON has the keys of a map as texts.
        let Kind::Message(entry) = field.kind() else { return Ok(DataType::Utf8) };
        let value = kind(&entry.map_entry_value_field(), within)?;
        let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
        return Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false));
    }
    let one = match field.kind() {
        Kind::Double => DataType::Float64,
        Kind::Float => DataType::Float32,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => DataType::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => DataType::Int64,
        Kind::Uint32 | Kind::Fixed32 => DataType::UInt32,
        Kind::Uint64 | Kind::Fixed64 => DataType::UInt64,
        Kind::Bool => DataType::Boolean,
        Kind::String | Kind::Bytes | Kind::Enum(_) => DataType::Utf8,
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            "google.protobuf.DoubleValue" => DataType::Float64,
            "google.protobuf.FloatValue" => DataType::Float32,
            "google.protobuf.Int64Value" => DataType::Int64,
            "google.protobuf.Int32Value" => DataType::Int32,
            "google.protobuf.UInt64Value" => DataType::UInt64,
            "google.protobuf.UInt32Value" => DataType::UInt32,
            "google.protobuf.BoolValue" => DataType::Boolean,
            name if name.starts_with("google.protobuf.") => DataType::Utf8,
            _ => DataType::Struct(fields(&message, within)?),
        },
    };
    Ok(match field.cardinality() {
        Cardinality::Repeated => DataType::List(Arc::new(Field::new_list_field(one, true))),
        _ => one,
    })
}
