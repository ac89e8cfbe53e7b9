//! The formats of a response: which one a request prefers, and the bodies in each.
//!
//! A body is appended to the output piece by piece, without a copy of it in between. `connection::responses` decides
//! which response has which body.
//!
//! ```
//! use notch::counter::Key;
//! use notch::render::{self, Format};
//!
//! assert_eq!(Format::choose(&[b"text/plain;q=0.5, application/json"]), Format::Json);
//!
//! let mut body = Vec::new();
//! render::write_count_object(&mut body, &Key::new(b"visits").expect("printable ASCII"), 7);
//! assert_eq!(body, b"{\"counter\":\"visits\",\"count\":7}\n");
//! ```

use crate::counter::{Key, StoreError};
use crate::decimal::Decimal;

/// The format that a request prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A bare number and a newline, for scripts: `n=$(curl -s localhost/count)`.
    #[default]
    Text,
    /// An object on one line.
    Json,
    /// A page for browsers.
    Html,
}

impl Format {
    /// Returns the format that the `Accept` fields prefer: by weight, then by specificity, then by order (RFC 9110,
    /// section 12.5.1). A request that accepts none of them gets text.
    #[must_use]
    pub fn choose(accept: &[&[u8]]) -> Self {
        let mut best = (0, 0, Self::Text);
        for range in accept.iter().flat_map(|field| field.split(|&byte| byte == b',')) {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let Some((format, specificity)) = parts.next().and_then(Self::of_range) else { continue };
            let weight = parts.find_map(weight).unwrap_or(MAX_WEIGHT);
            if weight > 0 && (weight, specificity) > (best.0, best.1) {
                best = (weight, specificity, format);
            }
        }
        best.2
    }

    /// Returns the format of a media range, and how specific the range is.
    fn of_range(range: &[u8]) -> Option<(Self, u8)> {
        let is = |other: &str| range.eq_ignore_ascii_case(other.as_bytes());
        match () {
            () if is("application/json") => Some((Self::Json, 3)),
            () if is("text/plain") => Some((Self::Text, 3)),
            () if is("text/html") => Some((Self::Html, 3)),
            () if is("application/*") => Some((Self::Json, 2)),
            () if is("text/*") => Some((Self::Text, 2)),
            () if is("*/*") => Some((Self::Text, 1)),
            () => None,
        }
    }
}

/// Parses a weight to thousandths: `q=0.5` is 500 (RFC 9110, section 12.4.2). `None` for other parameters.
fn weight(parameter: &[u8]) -> Option<u32> {
    let (b"q=" | b"Q=", digits) = parameter.split_at_checked(2)? else { return None };
    let mut digits = digits.iter().filter(|&&byte| byte != b'.').map(|byte| u32::from(byte.wrapping_sub(b'0')));
    let weight = (0..4).fold(0, |weight, _| weight * 10 + digits.next().filter(|&digit| digit <= 9).unwrap_or(0));
    Some(weight.min(MAX_WEIGHT))
}

/// The largest weight, which is also the default.
const MAX_WEIGHT: u32 = 1000;

/// Appends a number on a line: the visitor's own, or the total.
pub fn write_number(out: &mut Vec<u8>, number: i64) {
    append(out, &[&Decimal::new(number), b"\n"]);
}

/// Appends the object of a counter and its number.
pub fn write_count_object(out: &mut Vec<u8>, key: &Key, number: i64) {
    let number = Decimal::new(number);
    append(out, &[br#"{"counter":""#, key.as_bytes(), br#"","count":"#, &number, b"}\n"]);
}

/// Appends the object of several counters: their names, which need no escaping, and their totals.
pub fn write_totals_object<'a>(out: &mut Vec<u8>, totals: impl Iterator<Item = (&'a [u8], &'a i64)>) {
    let mut before = &b"{\"counts\":{\""[..];
    for (name, total) in totals {
        append(out, &[before, name, b"\":", &Decimal::new(*total)]);
        before = b",\"";
    }
    out.extend_from_slice(b"}}\n");
}

/// Appends a message on a line: a state, or an error and its remedy, in two parts.
pub fn write_message(out: &mut Vec<u8>, message: [&str; 2]) {
    append(out, &[message[0].as_bytes(), message[1].as_bytes(), b"\n"]);
}

/// Appends the object of a message in two parts, which need no escaping. `name` is its key.
pub fn write_message_object(out: &mut Vec<u8>, name: &str, message: [&str; 2]) {
    append(out, &[br#"{""#, name.as_bytes(), br#"":""#, message[0].as_bytes(), message[1].as_bytes(), b"\"}\n"]);
}

/// Appends the object from which shields.io draws a badge (its endpoint schema). The message and the name of the colour
/// need no escaping.
pub fn write_badge_object(out: &mut Vec<u8>, message: &[u8], color: &str) {
    let start = br#"{"schemaVersion":1,"label":"visits","message":""#;
    append(out, &[start, message, br#"","color":""#, color.as_bytes(), b"\"}\n"]);
}

/// The sentence of the start page, as text and escaped for JSON.
pub struct Welcome {
    text: String,
    json: String,
}

impl Welcome {
    /// Accepts any text; control characters become spaces.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut welcome = Self { text: String::new(), json: String::new() };
        for char in text.chars() {
            let char = if char.is_control() { ' ' } else { char };
            welcome.text.push(char);
            if matches!(char, '"' | '\\') {
                welcome.json.push('\\');
            }
            welcome.json.push(char);
        }
        welcome
    }

    /// Appends the start page as text: the sentence, and the total or the error.
    pub(crate) fn write_text(&self, out: &mut Vec<u8>, total: Result<i64, StoreError>) {
        out.extend_from_slice(self.text.as_bytes());
        match total {
            Ok(total) => append(out, &[b"\nvisits so far: ", &Decimal::new(total), b"\n"]),
            Err(error) => append(out, &[b"\nno count right now: ", error_message(error).as_bytes(), b"\n"]),
        }
    }

    /// Appends the start page as an object; without a total, its `count` is `null` and there is an `error`.
    pub(crate) fn write_object(&self, out: &mut Vec<u8>, key: &Key, total: Result<i64, StoreError>) {
        let (welcome, key) = (self.json.as_bytes(), key.as_bytes());
        append(out, &[br#"{"welcome":""#, welcome, br#"","counter":""#, key, br#"","count":"#]);
        match total {
            Ok(total) => append(out, &[&Decimal::new(total), b"}\n"]),
            Err(error) => append(out, &[br#"null,"error":""#, error_message(error).as_bytes(), b"\"}\n"]),
        }
    }
}

/// The contents of a page: a number with text around it, or text alone if there is no number.
pub struct Page<'a> {
    /// The sentence at the top.
    pub welcome: &'a Welcome,
    /// The text before the number.
    pub before: &'a str,
    /// The number.
    pub number: Option<i64>,
    /// The text after the number, in two parts.
    pub after: [&'a str; 2],
    /// The counter's name, empty for the main counter; it needs no escaping.
    pub name: &'a [u8],
    /// The counters to link to; their names need no escaping.
    pub names: &'a [String],
    /// The replica that serves the page.
    pub replica: &'a str,
    /// After how many milliseconds the page requests the total again; 0 for never.
    pub refresh: i64,
}

impl Page<'_> {
    /// Appends the page.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_template(out, PAGE, &mut |out, placeholder| self.fill(out, placeholder));
    }

    /// Appends the value of a placeholder.
    fn fill(&self, out: &mut Vec<u8>, placeholder: &[u8]) {
        match placeholder {
            b"welcome" => escape(out, &self.welcome.text),
            b"before" => escape(out, self.before),
            b"number" => self.number.iter().for_each(|&number| write_grouped(out, number)),
            b"after" => self.after.iter().for_each(|part| escape(out, part)),
            b"style" => out.extend_from_slice(STYLE),
            b"title" | b"name" | b"counter" | b"back" if self.name.is_empty() => {}
            b"title" => append(out, &[self.name, " \u{2013} ".as_bytes()]),
            b"name" => append(out, &[b"/", self.name]),
            b"counter" => append(out, &[b"<p>", self.name, b"</p>"]),
            b"back" => out.extend_from_slice(BACK),
            b"names" if !self.names.is_empty() => {
                out.extend_from_slice(b"<nav aria-label=Counters>");
                for name in self.names {
                    append(out, &[b"<a href=/total/", name.as_bytes(), b">", name.as_bytes(), b"</a> "]);
                }
                out.extend_from_slice(b"</nav>\n");
            }
            b"replica" => escape(out, self.replica),
            b"refresh" => out.extend_from_slice(&Decimal::new(self.refresh)),
            _ => {}
        }
    }
}

/// Appends the page of an error: `status` is the code and the reason, `message` the error and its remedy in two parts.
pub fn write_error_page(out: &mut Vec<u8>, status: &str, message: [&str; 2], replica: &str) {
    write_template(out, ERROR, &mut |out, placeholder| match placeholder {
        b"style" => out.extend_from_slice(STYLE),
        b"status" => escape(out, status),
        b"message" => message.iter().for_each(|part| escape(out, part)),
        b"back" => out.extend_from_slice(BACK),
        _ => escape(out, replica),
    });
}

/// Appends the parts, one after the other.
pub fn append(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends a template with its placeholders, which are names between tildes, replaced by what `fill` appends for them.
pub fn write_template(out: &mut Vec<u8>, text: &[u8], fill: &mut dyn FnMut(&mut Vec<u8>, &[u8])) {
    out.reserve(text.len() + 512);
    // Every other part is the name of a placeholder.
    for (index, part) in text.split(|&byte| byte == b'~').enumerate() {
        if index % 2 == 0 {
            out.extend_from_slice(part);
        } else {
            fill(out, part);
        }
    }
}

/// Appends text, escaped for element contents and attributes in double quotes.
pub fn escape(out: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            _ => out.push(byte),
        }
    }
}

/// Appends an integer with commas between groups of three digits.
fn write_grouped(out: &mut Vec<u8>, number: i64) {
    let number = Decimal::new(number);
    for (index, &byte) in number.iter().enumerate() {
        if out.last().is_some_and(u8::is_ascii_digit) && (number.len() - index).is_multiple_of(3) {
            out.push(b',');
        }
        out.push(byte);
    }
}

/// The page, with placeholders between tildes.
const PAGE: &[u8] = include_bytes!("page.html");

/// The page of an error, with placeholders.
const ERROR: &[u8] = include_bytes!("error.html");

/// The style of both.
const STYLE: &[u8] = include_bytes!("style.css");

/// The link from any other page to the start page.
const BACK: &[u8] = b"<nav><a href=/>Start page</a></nav>\n";

/// `Content-Security-Policy` of both pages: allows their style and script by hash, and requests to their own origin.
pub const POLICY: &str = "default-src 'none'; \
    style-src 'sha256-f1AGIewnhjq3M/aSUFJIZ4C8qBRRKlFxmRM6tnAqaWw='; \
    script-src 'sha256-BnpaIijb9igTEp/unR0BUB3+BiWuMj1b9YAYmCfgabQ='; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the message of an error of the store: a clause in lower case.
#[must_use]
pub fn error_message(error: StoreError) -> &'static str {
    match error {
        StoreError::Unavailable => "the store is unavailable",
        StoreError::Overloaded => "too many counters are requested at once",
        StoreError::OutcomeUnknown => "the store did not reply in time",
        StoreError::Rejected(rejection) => rejection.message(),
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn format_follows_the_accept_fields() {
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("application/json", Format::Json),
            ("Application/JSON; charset=utf-8", Format::Json),
            ("application/json, text/plain, */*", Format::Json),
            ("text/plain, application/json", Format::Text),
            ("text/plain;q=0.5, application/json;q=0.9", Format::Json),
            ("application/json;q=0.5, */*", Format::Text),
            ("*/*, application/json", Format::Json),
            ("application/json;q=0, */*;q=0.1", Format::Text),
            ("application/json;q=0", Format::Text),
            ("application/*", Format::Json),
            ("image/png", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Html),
            ("text/html;q=0.5, text/plain", Format::Text),
            ("text/plain, text/html", Format::Text),
            ("text/html;q=0", Format::Text),
            (";;,,q=,application/json;q=1.0000;x", Format::Json),
        ] {
            assert_eq!(Format::choose(&[accept.as_bytes()]), format, "{accept}");
        }
    }

    #[test]
    fn welcome_is_one_line_and_one_json_string() {
        let welcome = Welcome::new("the \"hi\"\\\nthere");
        let key = Key::new(b"visits").expect("a good name");
        let text = |total| text_of(|out| welcome.write_text(out, total));
        let object_of = |total| text_of(|out| welcome.write_object(out, &key, total));
        assert_eq!(text(Ok(3)), "the \"hi\"\\ there\nvisits so far: 3\n");
        assert_eq!(
            text(Err(StoreError::Unavailable)),
            "the \"hi\"\\ there\nno count right now: the store is unavailable\n"
        );
        let object = r#"{"welcome":"the \"hi\"\\ there","counter":"visits","count":"#;
        assert_eq!(object_of(Ok(3)), format!("{object}3}}\n"));
        assert_eq!(
            object_of(Err(StoreError::Unavailable)),
            format!("{object}null,\"error\":\"the store is unavailable\"}}\n")
        );
    }

    fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    fn page(welcome: &str, number: i64, names: &[String], replica: &str) -> String {
        let (welcome, number) = (&Welcome::new(welcome), Some(number));
        let page =
            Page { welcome, before: "", number, after: ["<", "&"], name: b"shop", names, replica, refresh: 5000 };
        text_of(|out| page.write(out))
    }

    #[test]
    fn texts_on_a_page_are_escaped() {
        let page = page("<script>\"&'\u{2603}~name~", 1, &[], "<a\">");
        let safe = "&lt;script&gt;&quot;&amp;'\u{2603}~name~";
        assert!(
            page.contains(&format!("<title>shop \u{2013} {safe}</title>"))
                && page.contains(&format!("<h1>{safe}</h1>")),
            "{page}"
        );
        assert!(page.contains("<span>&lt;a&quot;&gt;</span>") && page.contains("<span>&lt;&amp;</span>"), "{page}");
        assert!(page.contains("action=\"/count/shop\"") && page.contains("</h1><p>shop</p></header>"), "{page}");
        assert!(page.contains("<nav><a href=/>Start page</a></nav>") && !page.contains("Counters"), "{page}");
    }

    #[test]
    fn page_links_to_the_counters() {
        let page = page("Hi", 1, &["blog".into(), "a.b".into()], "here");
        assert!(page.contains("<a href=/total/blog>blog</a> <a href=/total/a.b>a.b</a> </nav>"), "{page}");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (12, "12"),
            (999, "999"),
            (1000, "1,000"),
            (12_345, "12,345"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
            (i64::MAX, "9,223,372,036,854,775,807"),
            (-1, "-1"),
            (-123, "-123"),
            (-1234, "-1,234"),
            (-123_456, "-123,456"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert!(page("", number, &[], "").contains(&format!("<b>{text}</b>")), "{number}");
        }
    }

    #[test]
    fn policy_allows_the_style_and_the_script() {
        let error = text_of(|out| write_error_page(out, "", ["", ""], ""));
        for (page, tag) in [(&page("", 1, &[], ""), "style"), (&page("", 1, &[], ""), "script"), (&error, "style")] {
            let (_, rest) = page.split_once(&format!("<{tag}>")).expect("one of each");
            let (text, _) = rest.split_once(&format!("</{tag}>")).expect("an end");
            let allowed = format!("{tag}-src 'sha256-{}'", BASE64.encode(Sha256::digest(text)));
            assert!(POLICY.contains(&allowed), "{allowed}");
        }
    }
}
