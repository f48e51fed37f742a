//! A strict reader of the small JSON objects in hellos and Disconnects (PROTOCOL §§3, 9).
//!
//! It exists because the rules are tighter than RFC 8259 where members are known, and looser where
//! they are not: a known member given twice, or with a lone surrogate, is an error, an unknown one
//! is not; `1.0` is not an integer; depth ends at 16. The reader borrows from the input and decodes
//! a string only when somebody asks for it, so an unknown member costs nothing but its syntax and
//! no copy of a secret is made that its owner does not hold.

use std::ops::RangeInclusive;

use crate::error::ErrorCode;

/// The deepest nesting; the object itself is the first level (PROTOCOL §3).
const MAX_DEPTH: usize = 16;

/// The peer's JSON is not what the protocol asks for. The server answers a hello like that with
/// `bad-request`; the client closes with 1002.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not one JSON object in UTF-8 of depth 16 at most, with nothing after it but white space.
    #[error("not one JSON object")]
    Syntax,
    /// A member that must be there is absent or `null`.
    #[error("the member \"{0}\" is missing")]
    Missing(&'static str),
    /// A known member is of the wrong type or range, stands twice, or does not fit the others.
    #[error("the member \"{0}\" is not valid")]
    Invalid(&'static str),
}

impl JsonError {
    /// What the user is told.
    pub const fn code(self) -> ErrorCode {
        ErrorCode::ProtocolError
    }
}

/// A JSON object whose members are looked up by name. Like what it holds, it cannot be printed: it
/// may hold a credential.
pub(super) struct Object<'a>(Vec<(Text<'a>, Value<'a>)>);

impl<'a> Object<'a> {
    /// Reads a whole message.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|_| JsonError::Syntax)?;
        let mut reader = Reader { text, at: 0 };
        reader.skip_blanks();
        let Some(Value::Object(object)) = reader.value(1) else {
            return Err(JsonError::Syntax);
        };
        reader.skip_blanks();
        if reader.at == text.len() { Ok(object) } else { Err(JsonError::Syntax) }
    }

    /// A known member, unless it is absent or `null`.
    pub(super) fn get(&self, name: &'static str) -> Result<Option<&Value<'a>>, JsonError> {
        let mut found = self.0.iter().filter(|(key, _)| key.is(name)).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(JsonError::Invalid(name)),
            (None | Some(Value::Null), None) => Ok(None),
            (Some(value), None) => Ok(Some(value)),
        }
    }

    /// A known member that may be absent; `read` returns none for a wrong type or range.
    pub(super) fn optional<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, JsonError> {
        self.get(name)?.map(|value| read(value).ok_or(JsonError::Invalid(name))).transpose()
    }

    /// A known member that must be there.
    pub(super) fn required<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<T, JsonError> {
        self.optional(name, read)?.ok_or(JsonError::Missing(name))
    }
}

/// One JSON value, of which only what the protocol uses can be read.
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(Text<'a>),
    Array(Vec<Self>),
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// An integer, written without sign, fraction or exponent, within `range`.
    pub(super) fn integer<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let Self::Number(digits) = self else { return None };
        // `u64` reads no fraction and no exponent, and the grammar has no plus sign.
        let number = digits.parse().ok().filter(|number| range.contains(number))?;
        T::try_from(number).ok()
    }

    /// `true` or `false`.
    pub(super) const fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A string without lone surrogates.
    pub(super) fn string(&self) -> Option<String> {
        match self {
            Self::String(text) => text.decode(),
            _ => None,
        }
    }

    /// An array of at most `longest` elements that `read` accepts.
    pub(super) fn array<T>(&self, longest: usize, read: impl FnMut(&Self) -> Option<T>) -> Option<Vec<T>> {
        match self {
            Self::Array(values) if values.len() <= longest => values.iter().map(read).collect(),
            _ => None,
        }
    }

    /// An object.
    pub(super) const fn object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }
}

/// A string as it stands between its quotes: every escape is well formed, surrogates are unpaired
/// perhaps.
pub(super) struct Text<'a>(&'a str);

impl Text<'_> {
    fn is(&self, name: &str) -> bool {
        if self.0.contains('\\') { self.decode().as_deref() == Some(name) } else { self.0 == name }
    }

    /// The text, unless it has a lone surrogate. Allocates once: no escape is shorter than what it
    /// stands for.
    fn decode(&self) -> Option<String> {
        let mut decoded = String::with_capacity(self.0.len());
        let mut rest = self.0;
        while let Some((plain, escape)) = rest.split_once('\\') {
            decoded.push_str(plain);
            let (character, length) = unescape(escape)?;
            decoded.push(character);
            rest = escape.get(length..)?;
        }
        decoded.push_str(rest);
        Some(decoded)
    }
}

/// The character of an escape sequence, which starts behind its backslash, and its length in
/// bytes.
fn unescape(escape: &str) -> Option<(char, usize)> {
    Some(match escape.as_bytes().first()? {
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'n' => ('\n', 1),
        b'r' => ('\r', 1),
        b't' => ('\t', 1),
        b'u' => {
            let unit = code_unit(escape.get(1..5)?)?;
            if let Some(character) = char::from_u32(unit.into()) {
                return Some((character, 5));
            }
            let low = code_unit(escape.get(5..11)?.strip_prefix("\\u")?)?;
            (char::decode_utf16([unit, low]).next()?.ok()?, 11)
        }
        other => (char::from(*other), 1),
    })
}

/// A UTF-16 code unit from exactly four hexadecimal digits.
fn code_unit(digits: &str) -> Option<u16> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

/// The grammar of RFC 8259. Every method starts at a token and leaves `at` behind it; none means a
/// syntax error.
struct Reader<'a> {
    text: &'a str,
    /// A byte offset, never inside a character: only ASCII is stepped over singly.
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        match self.peek()? {
            b'{' | b'[' if depth > MAX_DEPTH => None,
            b'{' => self.object(depth).map(Value::Object),
            b'[' => self.array(depth).map(Value::Array),
            b'"' => self.string().map(Value::String),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            _ => self.number().map(Value::Number),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Object<'a>> {
        let mut members = Vec::new();
        self.list(b'{', b'}', |reader| {
            let key = reader.string()?;
            reader.skip_blanks();
            reader.take(b':')?;
            reader.skip_blanks();
            members.push((key, reader.value(depth + 1)?));
            Some(())
        })?;
        Some(Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Vec<Value<'a>>> {
        let mut values = Vec::new();
        self.list(b'[', b']', |reader| {
            values.push(reader.value(depth + 1)?);
            Some(())
        })?;
        Some(values)
    }

    /// Elements between brackets, with commas between them.
    fn list(&mut self, open: u8, close: u8, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open)?;
        self.skip_blanks();
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            element(self)?;
            self.skip_blanks();
            if self.take(close).is_some() {
                return Some(());
            }
            self.take(b',')?;
            self.skip_blanks();
        }
    }

    fn string(&mut self) -> Option<Text<'a>> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            match self.next()? {
                b'"' => return self.text.get(start..self.at - 1).map(Text),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        code_unit(self.text.get(self.at..self.at + 4)?)?;
                        self.at += 4;
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    /// `-? (0 | [1-9][0-9]*) ('.' [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if self.take(b'e').or_else(|| self.take(b'E')).is_some() {
            let _ = self.take(b'+').or_else(|| self.take(b'-'));
            self.digits()?;
        }
        self.text.get(start..self.at)
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn literal(&mut self, word: &str, value: Value<'a>) -> Option<Value<'a>> {
        self.text.get(self.at..)?.starts_with(word).then(|| {
            self.at += word.len();
            value
        })
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Object<'_>, JsonError> {
        Object::parse(text.as_bytes())
    }

    fn accepts(text: &str) -> bool {
        parse(text).is_ok()
    }

    #[test]
    fn one_object_and_blanks_around_it() {
        for text in ["{}", " \t\r\n{} \t\r\n", "{\"a\":1}", "{ \"a\" : [ 1 , { } ] , \"b\" : null }"] {
            assert!(accepts(text), "{text}");
        }
        for text in [
            "",
            " ",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{}{}",
            "{},",
            "{}x",
            "{}\u{a0}",
            "\u{feff}{}",
            "{}\0",
            "{",
            "}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":[1,]}",
            "{\"a\":[,]}",
            "{\"a\":[1}",
            "{\"a\":tru}",
            "{\"a\":True}",
            "{\"a\":nullx}",
            "{\"a\":1}//",
            "{\"a\" 1}",
            "{1:1}",
        ] {
            assert!(!accepts(text), "{text}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
        assert!(Object::parse(b"{\"a\":\"\xed\xa0\x80\"}").is_err(), "a surrogate in UTF-8");
    }

    #[test]
    fn depth_ends_at_sixteen() {
        for (open, close) in [("[", "]"), ("{\"b\":", "}")] {
            for (inner, fits) in [(0, true), (15, true), (16, false), (8000, false)] {
                let text = format!("{{\"a\":{}0{}}}", open.repeat(inner), close.repeat(inner));
                assert_eq!(accepts(&text), fits, "{inner}");
            }
        }
    }

    #[test]
    fn an_integer_has_no_sign_fraction_or_exponent() {
        let read = |number: &str| {
            let text = format!("{{\"n\":{number}}}");
            parse(&text).map(|object| object.required("n", |value| value.integer::<u64>(0..=u64::MAX)))
        };
        for (number, value) in [("0", 0), ("7", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(read(number), Ok(Ok(value)));
        }
        for number in [
            "1.0",
            "1e0",
            "1E0",
            "10e-1",
            "0.5",
            "-1",
            "-0",
            "0e0",
            "18446744073709551616",
            "true",
            "\"1\"",
            "[1]",
        ] {
            assert_eq!(read(number), Ok(Err(JsonError::Invalid("n"))), "{number}");
        }
        for number in
            ["", "-", "+1", "01", "00", "1.", ".5", "1e", "1e+", "0x1", "1_0", "NaN", "Infinity", "-a"]
        {
            assert_eq!(read(number).err(), Some(JsonError::Syntax), "{number}");
        }
    }

    #[test]
    fn an_integer_keeps_to_its_range() {
        let object = parse("{\"n\":300}").unwrap();
        let read = |range| object.required("n", |value| value.integer::<u16>(range));
        assert_eq!(read(300..=300), Ok(300));
        assert_eq!(read(0..=299), Err(JsonError::Invalid("n")));
        assert_eq!(read(301..=400), Err(JsonError::Invalid("n")));
        let narrow = object.required("n", |value| value.integer::<u8>(0..=u64::MAX));
        assert_eq!(narrow, Err(JsonError::Invalid("n")));
    }

    #[test]
    fn members_are_absent_null_or_there_once() {
        let object = parse(r#"{"a":null,"b":1,"b":1,"c":null,"c":1,"d":true}"#).unwrap();
        assert!(matches!(object.get("z"), Ok(None)));
        assert!(matches!(object.get("a"), Ok(None)));
        assert!(matches!(object.get("d"), Ok(Some(Value::Bool(_)))));
        for twice in ["b", "c"] {
            assert_eq!(object.get(twice).err(), Some(JsonError::Invalid(twice)));
        }
        let missing = object.required("a", |_| Some(()));
        assert_eq!(missing, Err(JsonError::Missing("a")));
    }

    #[test]
    fn a_name_may_be_escaped() {
        let object = parse(r#"{"\u0061":1,"\ud800":2,"\"":3}"#).unwrap();
        assert!(object.get("a").unwrap().is_some());
        assert!(object.get("\"").unwrap().is_some());
        let twice = parse(r#"{"\u0061":1,"a":2}"#).unwrap();
        assert_eq!(twice.get("a").err(), Some(JsonError::Invalid("a")));
    }

    #[test]
    fn strings_decode() {
        for (raw, decoded) in [
            ("", Some("")),
            ("aüb😀", Some("aüb😀")),
            (r#"\"\\\/\b\f\n\r\t"#, Some("\"\\/\u{8}\u{c}\n\r\t")),
            (r"x\u0041y\u00fcz\u0000", Some("xAyüz\0")),
            (r"\ud83d\ude00!", Some("😀!")),
            (r"\uD83D\uDE00", Some("😀")),
            (r"\\u0041", Some("\\u0041")),
            (r"\ud800", None),
            (r"\udc00", None),
            (r"\ud800\ud800", None),
            (r"\ud800x", None),
            (r"\ud800\n", None),
            (r"\ud800\\udc00", None),
            (r"\ude00\ud83d", None),
        ] {
            let text = format!("{{\"s\":\"{raw}\"}}");
            let value = parse(&text).unwrap().required("s", Value::string);
            assert_eq!(value.ok().as_deref(), decoded, "{raw}");
        }
    }

    #[test]
    fn strings_have_a_grammar() {
        for raw in [
            "a\nb", "a\0", "\u{1f}", r"\a", r"\u", r"\u12", r"\u12g4", r"\u+123", r"\x41", r"\U0041", "\\",
            "\\é", "\\u12é4",
        ] {
            assert!(!accepts(&format!("{{\"s\":\"{raw}\"}}")), "{raw:?}");
        }
        assert!(accepts("{\"s\":\"\u{7f}\u{80}\u{2028}\"}"));
    }

    #[test]
    fn arrays_have_a_longest_length() {
        let object = parse(r#"{"l":["a","b"],"m":["a",1]}"#).unwrap();
        let read = |name, longest| object.required(name, |value| value.array(longest, Value::string));
        assert_eq!(read("l", 2).unwrap(), ["a", "b"]);
        assert!(read("l", 1).is_err() && read("m", 2).is_err());
    }

    /// JSON text, sometimes a little broken.
    fn almost_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,2})?([eE][+-]?[0-9])?",
            "-?[0-9.e+]{0,4}",
            "\"([a-zé😀 ]|\\\\[\"\\\\/bfnrtx]|\\\\u00[0-9a-f]{2}){0,4}\"",
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(" ,"))),
                prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|members| {
                    let members = members.iter().map(|(key, value)| format!("\"{key}\": {value}"));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        });
        (value, any::<prop::sample::Index>(), "[\\[\\]{},:\"0 ]?", any::<bool>()).prop_map(
            |(value, index, noise, object)| {
                let mut text = if object { format!("{{\"v\":{value}}}") } else { value };
                let at = index.index(text.len() + 1);
                if text.is_char_boundary(at) {
                    text.insert_str(at, &noise);
                }
                text
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in almost_json()) {
            let other = serde_json::from_str::<serde_json::Value>(&text).ok();
            prop_assert_eq!(accepts(&text), other.is_some_and(|value| value.is_object()), "{}", text);
        }

        #[test]
        fn strings_survive(text in any::<String>()) {
            let encoded = serde_json::json!({ "s": text }).to_string();
            let decoded = parse(&encoded).unwrap().required("s", Value::string);
            prop_assert_eq!(decoded, Ok(text));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Object::parse(&bytes);
        }
    }
}
