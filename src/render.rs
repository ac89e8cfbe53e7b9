//! The formats of a response: which one a request prefers, and the body in each.
//!
//! A body is a few slices, most of them constant, so that its length is known and it is copied only once, to the
//! output.

use std::ops::Deref;

use crate::counter::{Key, StoreError};
use crate::decimal::Decimal;

/// The format of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A bare number and a newline, for scripts: `n=$(curl -s localhost/count)`.
    #[default]
    Text,
    /// An object on one line.
    Json,
    /// A page for browsers.
    Html,
    /// An SVG of the number; selected by its path, never by `Accept`.
    Badge,
    /// The JSON from which shields.io draws a badge (its endpoint schema); also selected by its path.
    Shield,
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

    /// Returns the value of `Content-Type`.
    #[must_use]
    pub fn media(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json | Self::Shield => "application/json",
            Self::Html => "text/html; charset=utf-8",
            Self::Badge => "image/svg+xml",
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

/// A body in pieces, to be written one after another.
pub struct Pieces<'a> {
    pieces: [&'a [u8]; MAX_PIECES],
    length: usize,
}

impl<'a> Pieces<'a> {
    /// Returns a body of these pieces, at most nine.
    #[must_use]
    pub fn new(given: &[&'a [u8]]) -> Self {
        let mut pieces: [&[u8]; MAX_PIECES] = [b""; MAX_PIECES];
        for (piece, content) in pieces.iter_mut().zip(given) {
            *piece = content;
        }
        Self { pieces, length: given.len() }
    }
}

/// Most pieces in one body.
const MAX_PIECES: usize = 9;

impl<'a> Deref for Pieces<'a> {
    type Target = [&'a [u8]];

    fn deref(&self) -> &Self::Target {
        self.pieces.get(..self.length).unwrap_or_default()
    }
}

/// Returns the body with one number: the visitor's own, or the total.
#[must_use]
pub fn count<'a>(format: Format, key: &'a Key, number: &'a Decimal) -> Pieces<'a> {
    match format {
        Format::Json => Pieces::new(&[br#"{"counter":""#, key.as_bytes(), br#"","count":"#, number, b"}\n"]),
        Format::Shield => shield(number, b"blue"),
        _ => Pieces::new(&[number, b"\n"]),
    }
}

/// Returns the JSON from which shields.io draws a badge.
#[must_use]
pub fn shield<'a>(message: &'a [u8], color: &'a [u8]) -> Pieces<'a> {
    let start = br#"{"schemaVersion":1,"label":"visits","message":""#;
    Pieces::new(&[start, message, br#"","color":""#, color, b"\"}\n"])
}

/// Returns the body with one message: a state, or an error and its remedy. `name` is its key in JSON.
#[must_use]
pub fn message<'a>(format: Format, name: &'static str, parts: [&'a str; 2]) -> Pieces<'a> {
    let parts = parts.map(str::as_bytes);
    match format {
        Format::Json => Pieces::new(&[br#"{""#, name.as_bytes(), br#"":""#, parts[0], parts[1], b"\"}\n"]),
        _ => Pieces::new(&[parts[0], parts[1], b"\n"]),
    }
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

    /// Returns the start page as text or JSON: the sentence, and the total or the error.
    #[must_use]
    pub fn body<'a>(&'a self, format: Format, key: &'a Key, total: &'a Result<Decimal, StoreError>) -> Pieces<'a> {
        match (format, total) {
            (Format::Json, total) => {
                let (number, before, message, end) = match total {
                    Ok(total) => (&**total, &b""[..], "", &b"}\n"[..]),
                    Err(error) => (&b"null"[..], &br#","error":""#[..], error_message(*error), &b"\"}\n"[..]),
                };
                let (start, welcome, counter) = (br#"{"welcome":""#, self.json.as_bytes(), br#"","counter":""#);
                let (key, message) = (key.as_bytes(), message.as_bytes());
                Pieces::new(&[start, welcome, counter, key, br#"","count":"#, number, before, message, end])
            }
            (_, Ok(total)) => Pieces::new(&[self.text.as_bytes(), b"\nvisits so far: ", total, b"\n"]),
            (_, Err(error)) => {
                Pieces::new(&[self.text.as_bytes(), b"\nno count right now: ", error_message(*error).as_bytes(), b"\n"])
            }
        }
    }
}

/// The contents of a page: a number with text around it, or text alone where there is none.
pub struct Page<'a> {
    /// The sentence at the top.
    pub welcome: &'a Welcome,
    /// The text before the number.
    pub before: &'a str,
    /// The number.
    pub number: &'a [u8],
    /// The text after the number, in two parts.
    pub after: [&'a str; 2],
    /// The counter's name, empty for the main counter; it needs no escaping.
    pub name: &'a [u8],
    /// The counters to link to; their names need no escaping.
    pub names: &'a [String],
    /// The replica that serves the page.
    pub replica: &'a str,
}

impl Page<'_> {
    /// Returns the page.
    #[must_use]
    pub fn html(&self) -> Vec<u8> {
        template(PAGE, &mut |out, name| self.fill(out, name))
    }

    /// Appends the value of a placeholder.
    fn fill(&self, out: &mut Vec<u8>, placeholder: &[u8]) {
        match placeholder {
            b"welcome" => escape(out, &self.welcome.text),
            b"before" => escape(out, self.before),
            b"number" => write_grouped(out, self.number),
            b"after" => self.after.iter().for_each(|part| escape(out, part)),
            b"style" => out.extend_from_slice(STYLE),
            b"title" | b"name" | b"counter" | b"back" if self.name.is_empty() => {}
            b"title" => extend(out, &[self.name, " \u{2013} ".as_bytes()]),
            b"name" => extend(out, &[b"/", self.name]),
            b"counter" => extend(out, &[b"<p>", self.name, b"</p>"]),
            b"back" => out.extend_from_slice(BACK),
            b"names" if !self.names.is_empty() => {
                out.extend_from_slice(b"<nav aria-label=Counters>");
                for name in self.names {
                    extend(out, &[b"<a href=/total/", name.as_bytes(), b">", name.as_bytes(), b"</a> "]);
                }
                out.extend_from_slice(b"</nav>\n");
            }
            b"replica" => escape(out, self.replica),
            _ => {}
        }
    }
}

/// Returns the page of an error: `status` is the code and the reason, `message` the error and its remedy in two parts.
#[must_use]
pub fn error_page(status: &str, message: [&str; 2], replica: &str) -> Vec<u8> {
    template(ERROR, &mut |out, placeholder| match placeholder {
        b"style" => out.extend_from_slice(STYLE),
        b"status" => escape(out, status),
        b"message" => message.iter().for_each(|part| escape(out, part)),
        b"back" => out.extend_from_slice(BACK),
        _ => escape(out, replica),
    })
}

fn extend(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Returns a template with its placeholders, which are names between tildes, replaced by what `fill` appends for them.
pub fn template(text: &[u8], fill: &mut dyn FnMut(&mut Vec<u8>, &[u8])) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 512);
    // Every other part is the name of a placeholder.
    for (index, part) in text.split(|&byte| byte == b'~').enumerate() {
        if index % 2 == 0 {
            out.extend_from_slice(part);
        } else {
            fill(&mut out, part);
        }
    }
    out
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
fn write_grouped(out: &mut Vec<u8>, number: &[u8]) {
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
    style-src 'sha256-J4bn8uPN1zflW5pOlSEs7d06znJceQ0yfNOmKe7Gy/E='; \
    script-src 'sha256-pgIFC7KszN8uV5lgt8A0WDQJbic4aZoU55C9A1k3hCY='; \
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
        let welcome = Welcome::new("say \"hi\"\\\nthere");
        let key = Key::new(b"visits").expect("a good name");
        let render = |format, total: Result<i64, StoreError>| {
            let body = welcome.body(format, &key, &total.map(Decimal::new)).concat();
            String::from_utf8(body).expect("UTF-8")
        };
        assert_eq!(render(Format::Text, Ok(3)), "say \"hi\"\\ there\nvisits so far: 3\n");
        assert_eq!(
            render(Format::Text, Err(StoreError::Unavailable)),
            "say \"hi\"\\ there\nno count right now: the store is unavailable\n"
        );
        let object = r#"{"welcome":"say \"hi\"\\ there","counter":"visits","count":"#;
        assert_eq!(render(Format::Json, Ok(3)), format!("{object}3}}\n"));
        assert_eq!(
            render(Format::Json, Err(StoreError::Unavailable)),
            format!("{object}null,\"error\":\"the store is unavailable\"}}\n")
        );
    }

    fn page(welcome: &str, number: i64, names: &[String], replica: &str) -> String {
        let (welcome, number) = (&Welcome::new(welcome), Decimal::new(number));
        let page =
            Page { welcome, before: "", number: &number, after: ["<", "&"], name: b"shop", names, replica }.html();
        String::from_utf8(page).expect("UTF-8")
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
        let error = String::from_utf8(error_page("", ["", ""], "")).expect("UTF-8");
        for (page, tag) in [(&page("", 1, &[], ""), "style"), (&page("", 1, &[], ""), "script"), (&error, "style")] {
            let (_, rest) = page.split_once(&format!("<{tag}>")).expect("one of each");
            let (text, _) = rest.split_once(&format!("</{tag}>")).expect("an end");
            let allowed = format!("{tag}-src 'sha256-{}'", BASE64.encode(Sha256::digest(text)));
            assert!(POLICY.contains(&allowed), "{allowed}");
        }
    }
}
