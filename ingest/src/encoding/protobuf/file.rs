//! The files of a schema, without what reading does not need and what could make much of few bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FileDescriptorProto, MessageOptions, UninterpretedOption,
};
use prost_reflect::{DescriptorPool, Kind};

/// The deepest nesting of braces and brackets that is read.
const MAX_DEPTH: usize = 64;
/// The most fields of a message. Each takes time in each message, whether it is set or not.
const MAX_FIELDS: usize = 1000;

/// A file from its text, or from its descriptor as base64, as some clients register it.
///
/// # Errors
/// Why it cannot be read.
pub fn read(name: &str, text: &str) -> Result<FileDescriptorProto, String> {
    let bytes = STANDARD.decode(text.trim()).ok().filter(|bytes| !bytes.is_empty());
    let encoded = bytes.and_then(|bytes| FileDescriptorProto::decode(bytes.as_slice()).ok());
    let file = match encoded {
        Some(file) => file,
        None => {
            check_text(name, text)?;
            protox_parse::parse(name, text).map_err(|error| error.to_string())?
        }
    };
    if !matches!(file.syntax.as_deref(), None | Some("" | "proto2" | "proto3")) {
        return Err(format!("{name}: syntax {} is not supported", file.syntax.unwrap_or_default()));
    }
    if !file.public_dependency.is_empty() {
        return Err(format!("{name}: `import public` is not supported"));
    }
    Ok(FileDescriptorProto {
        name: Some(name.to_owned()),
        package: file.package,
        dependency: file.dependency,
        syntax: file.syntax,
        message_type: file.message_type.into_iter().map(message).collect(),
        enum_type: file.enum_type.into_iter().map(enumeration).collect(),
        ..FileDescriptorProto::default()
    })
}

/// A message without options, defaults and extensions: none of them is read.
fn message(message: DescriptorProto) -> DescriptorProto {
    let is_entry = |of: MessageOptions| of.map_entry == Some(true) || is_set("map_entry", &of.uninterpreted_option);
    let map_entry = message.options.map(is_entry).filter(|is_entry| *is_entry);
    let mut fields = message.field;
    for field in &mut fields {
        (field.default_value, field.options) = (None, None);
    }
    let mut oneofs = message.oneof_decl;
    oneofs.iter_mut().for_each(|oneof| oneof.options = None);
    DescriptorProto {
        name: message.name,
        field: fields,
        nested_type: message.nested_type.into_iter().map(self::message).collect(),
        enum_type: message.enum_type.into_iter().map(enumeration).collect(),
        oneof_decl: oneofs,
        options: map_entry.map(|is_entry| MessageOptions { map_entry: Some(is_entry), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    }
}

fn enumeration(of: EnumDescriptorProto) -> EnumDescriptorProto {
    let is_alias = |of: EnumOptions| of.allow_alias == Some(true) || is_set("allow_alias", &of.uninterpreted_option);
    let allow_alias = of.options.map(is_alias).filter(|is_alias| *is_alias);
    let mut values = of.value;
    values.iter_mut().for_each(|value| value.options = None);
    EnumDescriptorProto {
        name: of.name,
        value: values,
        options: allow_alias.map(|alias| EnumOptions { allow_alias: Some(alias), ..EnumOptions::default() }),
        ..EnumDescriptorProto::default()
    }
}

/// Whether an option of a text is true.
fn is_set(name: &str, options: &[UninterpretedOption]) -> bool {
    let is_named = |option: &UninterpretedOption| matches!(option.name.as_slice(), [part] if part.name_part == name && !part.is_extension);
    options.iter().any(|option| is_named(option) && option.identifier_value.as_deref() == Some("true"))
}

/// What of the messages cannot be read. Returns whether one of them has a map.
///
/// # Errors
/// The message, and why.
pub fn check(pool: &DescriptorPool) -> Result<bool, String> {
    let mut has_maps = false;
    for message in pool.all_messages().filter(|message| message.package_name() != "google.protobuf") {
        let name = message.full_name();
        if message.fields().len() > MAX_FIELDS {
            return Err(format!("{name} has more than {MAX_FIELDS} fields"));
        }
        // Each Any within another begins to count its depth anew.
        let is_any = |kind: Kind| matches!(kind, Kind::Message(of) if of.full_name() == "google.protobuf.Any");
        if message.fields().any(|field| is_any(field.kind())) {
            return Err(format!("{name} has a google.protobuf.Any, which is not supported"));
        }
        let is_key =
            |kind: Kind| !matches!(kind, Kind::Message(_) | Kind::Enum(_) | Kind::Float | Kind::Double | Kind::Bytes);
        let is_whole = || message.get_field(1).is_some_and(|key| is_key(key.kind())) && message.get_field(2).is_some();
        if message.is_map_entry() && !is_whole() {
            return Err(format!("{name} is no entry of a map"));
        }
        has_maps |= message.is_map_entry();
    }
    Ok(has_maps)
}

/// The reader descends into braces and brackets on the stack. Those in texts and comments count, too.
fn check_text(name: &str, text: &str) -> Result<(), String> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'<' | b'(' => depth += 1,
            b'}' | b']' | b'>' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = depth.max(deepest);
    }
    if deepest > MAX_DEPTH {
        return Err(format!("{name} is nested deeper than {MAX_DEPTH} times"));
    }
    // The reader copies the options of such a statement once for each of its ranges.
    let mut statements = text.split("extensions").skip(1).filter_map(|rest| rest.split(';').next());
    match statements.any(|statement| statement.contains(',') && statement.contains('[')) {
        true => Err(format!("{name}: several ranges of extensions with options are not supported")),
        false => Ok(()),
    }
}
