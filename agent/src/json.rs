//! Reads JSON in place, without copying: one object, its members as raw values (RFC 8259). A value's own bytes stay
//! available, which is how a command's arguments reach the application untouched. Documents are written by serde-json-core.
//! It does not read them: it takes control characters in strings, and would cost a microcontroller 8 KB more.

use crate::buffer::{Buffer, BufferFull};
use core::fmt::Write as _;
use serde::Serialize;

/// Nesting beyond this is refused: no message of ours nests deeper than three.
const MAX_DEPTH: u8 = 8;

/// Appends a document.
///
/// # Errors
/// [`BufferFull`].
pub fn write(out: &mut Buffer<'_>, document: &impl Serialize) -> Result<(), BufferFull> {
    out.fill(|space| serde_json_core::to_slice(document, space).ok())
}

/// Not a JSON object, nested too deep, or a name twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError;

/// A whole, valid JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object<'a>(&'a str);

/// A JSON value by its own bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a str);

impl<'a> Object<'a> {
    /// Checks that `bytes` are exactly one JSON object whose member names differ.
    ///
    /// # Errors
    /// [`JsonError`] if not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = core::str::from_utf8(bytes).map_err(|_| JsonError)?.trim_matches([' ', '\t', '\n', '\r']);
        if !text.starts_with('{') || skip_value(text.as_bytes(), 0, 0)? != text.len() {
            return Err(JsonError);
        }
        let object = Self(text);
        let mut members = object.members();
        while let Some((name, _)) = members.next() {
            if members.clone().any(|(other, _)| other == name) {
                return Err(JsonError);
            }
        }
        Ok(object)
    }

    /// The value of the member `name`; a name written with escapes is not found.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        self.members().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The string of the member `name`, if it has one that needs no unescaping.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// The whole number of the member `name`, if it has one.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    /// All members in order: the name as written between its quotes, and the value.
    #[must_use]
    pub fn members(&self) -> Members<'a> {
        Members { text: self.0, at: 1 }
    }

    /// The object's own text.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// The members of an [`Object`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let mut at = skip_space(bytes, self.at);
        if bytes.get(at) == Some(&b',') {
            at = skip_space(bytes, at + 1);
        }
        let name_end = skip_string(bytes, at).ok()?;
        let name = self.text.get(at + 1..name_end - 1)?;
        let colon = skip_space(bytes, name_end);
        let start = skip_space(bytes, colon + 1);
        let end = skip_value(bytes, start, 1).ok()?;
        self.at = end;
        Some((name, Value(self.text.get(start..end)?)))
    }
}

impl<'a> Value<'a> {
    /// The value as it was written.
    #[must_use]
    pub fn as_raw(&self) -> &'a str {
        self.0
    }

    /// A string that needs no unescaping.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        (!inner.contains('\\')).then_some(inner)
    }

    /// A whole number, without sign, fraction or exponent.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        crate::time::decimal(self.0.as_bytes())
    }

    /// Any number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.0.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then(|| self.0.parse().ok())?
    }

    /// `true` or `false`.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.0 {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// An object.
    #[must_use]
    pub fn as_object(&self) -> Option<Object<'a>> {
        Object::parse(self.0.as_bytes()).ok()
    }
}

/// Writes `text` as a JSON string, quotes included.
///
/// # Errors
/// [`BufferFull`] if it does not fit.
pub fn write_string(out: &mut Buffer<'_>, text: &str) -> Result<(), BufferFull> {
    out.push(b"\"")?;
    for character in text.chars() {
        match character {
            '"' => out.push(b"\\\"")?,
            '\\' => out.push(b"\\\\")?,
            '\0'..='\x1f' => write!(out, "\\u{:04x}", u32::from(character))?,
            _ => out.push(character.encode_utf8(&mut [0; 4]).as_bytes())?,
        }
    }
    out.push(b"\"")
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The position after the value that begins at `at`.
fn skip_value(bytes: &[u8], at: usize, depth: u8) -> Result<usize, JsonError> {
    match bytes.get(at).ok_or(JsonError)? {
        _ if depth > MAX_DEPTH => Err(JsonError),
        b'{' => skip_list(bytes, at, b'}', |bytes, at| {
            let colon = skip_space(bytes, skip_string(bytes, at)?);
            if bytes.get(colon) != Some(&b':') {
                return Err(JsonError);
            }
            skip_value(bytes, skip_space(bytes, colon + 1), depth + 1)
        }),
        b'[' => skip_list(bytes, at, b']', |bytes, at| skip_value(bytes, at, depth + 1)),
        b'"' => skip_string(bytes, at),
        b't' => skip_word(bytes, at, b"true"),
        b'f' => skip_word(bytes, at, b"false"),
        b'n' => skip_word(bytes, at, b"null"),
        _ => skip_number(bytes, at),
    }
}

fn skip_list(
    bytes: &[u8],
    at: usize,
    close: u8,
    skip_item: impl Fn(&[u8], usize) -> Result<usize, JsonError>,
) -> Result<usize, JsonError> {
    let mut at = skip_space(bytes, at + 1);
    if bytes.get(at) == Some(&close) {
        return Ok(at + 1);
    }
    loop {
        at = skip_space(bytes, skip_item(bytes, at)?);
        match bytes.get(at) {
            Some(b',') => at = skip_space(bytes, at + 1),
            Some(last) if *last == close => return Ok(at + 1),
            _ => return Err(JsonError),
        }
    }
}

fn skip_string(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) != Some(&b'"') {
        return Err(JsonError);
    }
    let mut at = at + 1;
    loop {
        match bytes.get(at).ok_or(JsonError)? {
            b'"' => return Ok(at + 1),
            b'\\' => match bytes.get(at + 1).ok_or(JsonError)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' if bytes.get(at + 2..at + 6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => at += 6,
                _ => return Err(JsonError),
            },
            0..=0x1f => return Err(JsonError),
            _ => at += 1,
        }
    }
}

fn skip_word(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, JsonError> {
    if bytes.get(at..).is_some_and(|rest| rest.starts_with(word)) { Ok(at + word.len()) } else { Err(JsonError) }
}

fn skip_number(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let digits = |mut at: usize| -> Result<usize, JsonError> {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if at > start { Ok(at) } else { Err(JsonError) }
    };
    let start = if bytes.get(at) == Some(&b'-') { at + 1 } else { at };
    let mut end = digits(start)?;
    if bytes.get(start) == Some(&b'0') && end > start + 1 {
        return Err(JsonError);
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(end + 1 + sign)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_arguments_keep_their_bytes() {
        let object =
            Object::parse(br#" {"id":"c-1" , "seq": 12,"args":{"target_c": 21.5, "why":"a \"b\""},"x":[1,[]]} "#).expect("valid");
        assert_eq!(object.get("id").and_then(|id| id.as_str()), Some("c-1"));
        assert_eq!(object.get("seq").and_then(|seq| seq.as_u64()), Some(12));
        let args = object.get("args").expect("present");
        assert_eq!(args.as_raw(), r#"{"target_c": 21.5, "why":"a \"b\""}"#);
        assert_eq!(args.as_object().and_then(|args| args.get("target_c")?.as_f64()), Some(21.5));
        assert_eq!(object.get("none"), None);
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for wrong in [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":+1}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":tru}",
            "{a:1}",
            "{\"a\":[1,]}",
            "{\"a\":[[[[[[[[[[1]]]]]]]]]]}",
            "{\"a\":\"\\u12g4\"}",
            "\x0c{}",
            "{\"a\":\"\x02\"}",
            "{} x",
        ] {
            assert_eq!(Object::parse(wrong.as_bytes()), Err(JsonError), "{wrong}");
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}"), Err(JsonError));
        assert!(Object::parse(b" {\"a\":\"b\"}\n").is_ok());
    }

    #[test]
    fn mutated_json_never_panics_and_agrees_with_an_independent_reader() {
        let seed = br#"{"id":"c-1","seq":12,"ttl_s":30,"by":"own\"er","args":{"a":[1,-2.5e3,true,null,"\u00e9"]}}"#;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..=random() % 3 {
                let at = random() as usize % bytes.len();
                bytes[at] = br#"{}[]",:\u019.eE+-tfn "#[random() as usize % 21];
            }
            let ours = Object::parse(&bytes);
            let theirs = serde_json::from_slice::<serde_json::Map<_, _>>(&bytes);
            // serde_json allows a name twice (the last wins) and refuses lone surrogates and huge exponents; we do not care.
            if let (Ok(ours), Ok(theirs)) = (ours, &theirs) {
                assert_eq!(ours.members().count(), theirs.len());
            }
            if theirs.is_err() && ours.is_ok() {
                let text = std::string::String::from_utf8_lossy(&bytes);
                assert!(text.contains("\\u") || text.contains(['e', 'E']), "{text}");
            }
        }
    }

    #[test]
    fn a_written_string_reads_back() {
        let mut bytes = [0; 64];
        let mut out = Buffer::new(&mut bytes);
        write_string(&mut out, "a \"quoted\"\n\\ é").expect("fits");
        assert_eq!(serde_json::from_slice::<std::string::String>(out.written()).expect("valid"), "a \"quoted\"\n\\ é");
    }
}
