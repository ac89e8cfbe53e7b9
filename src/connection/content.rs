//! The content of a response: its media type, its policy for browsers, and its bytes.

use super::ServerContext;
use crate::badge::{self, BadgeStyle};
use crate::counter::{Key, Names, StoreError};
use crate::http::Status;
use crate::metrics;
use crate::render::{self, Page};

/// The content of a response. What all responses of a server have in common is added when it is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// None, and no `Content-Type`.
    Empty,
    /// A number on a line.
    Number(i64),
    /// The object of a counter and its number.
    CountObject(&'a Key, i64),
    /// The object of several counters and their totals.
    TotalsObject(&'a [Key], &'a [i64]),
    /// The start page as text.
    WelcomeText(Result<i64, StoreError>),
    /// The start page as an object.
    WelcomeObject(&'a Key, Result<i64, StoreError>),
    /// The start page for browsers: the page of a counter, with links to the others.
    WelcomePage(&'a Key, PageText),
    /// The page of a counter.
    CounterPage(&'a Key, PageText),
    /// A message on a line, in two parts.
    Message([&'static str; 2]),
    /// An object with one message in two parts, under a name.
    MessageObject(&'static str, [&'static str; 2]),
    /// The page of an error.
    ErrorPage(Status, [&'static str; 2]),
    /// A badge in the style of the query, if that has one. Without a number it shows that there is none.
    Badge(Option<&'a BadgeStyle>, Option<i64>),
    /// A transparent image of one pixel.
    Pixel,
    /// The object from which shields.io draws a badge.
    BadgeObject(Option<i64>),
    /// The metrics.
    Metrics,
    /// The rules for crawlers.
    Robots,
}

/// What the page of a counter shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum PageText {
    /// The number of the visitor.
    Visitor(i64),
    /// The total.
    Total(i64),
    /// A message in two parts, and no number.
    Message([&'static str; 2]),
    /// The same about a visit that may have been counted. As with the number of a visitor, the page does not request
    /// the total after it, which would replace it.
    InDoubt([&'static str; 2]),
}

impl Content<'_> {
    /// Returns the values of `Content-Type` and, for what a browser displays, of `Content-Security-Policy`.
    pub(super) fn media(&self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Empty => (None, None),
            Self::Number(_) | Self::WelcomeText(_) | Self::Message(_) | Self::Robots => (Some(TEXT), None),
            Self::CountObject(..)
            | Self::TotalsObject(..)
            | Self::WelcomeObject(..)
            | Self::MessageObject(..)
            | Self::BadgeObject(_) => (Some(JSON), None),
            Self::WelcomePage(..) | Self::CounterPage(..) | Self::ErrorPage(..) => (Some(HTML), Some(render::POLICY)),
            Self::Badge(..) => (Some(SVG), Some(NOTHING)),
            Self::Pixel => (Some("image/gif"), Some(NOTHING)),
            Self::Metrics => (Some(metrics::MEDIA), None),
        }
    }

    /// Appends the bytes.
    pub(super) fn write(&self, server: &ServerContext, out: &mut Vec<u8>) {
        match *self {
            Self::Empty => {}
            Self::Number(number) => render::write_number(out, number),
            Self::CountObject(key, number) => render::write_count_object(out, key, number),
            Self::TotalsObject(keys, totals) => {
                let names = keys.iter().map(|key| server.counters.name_of(key));
                render::write_totals_object(out, names.zip(totals));
            }
            Self::WelcomeText(total) => server.welcome.write_text(out, total),
            Self::WelcomeObject(key, total) => server.welcome.write_object(out, key, total),
            Self::WelcomePage(key, text) => match &server.counters.names {
                Names::List(names) => write_page(server, key, text, names, out),
                Names::Any => write_page(server, key, text, &[], out),
            },
            Self::CounterPage(key, text) => write_page(server, key, text, &[], out),
            Self::Message(message) => render::write_message(out, message),
            Self::MessageObject(name, message) => render::write_message_object(out, name, message),
            Self::ErrorPage(status, message) => {
                render::write_error_page(out, status.line(), message, &server.served_by);
            }
            Self::Badge(style, number) => BadgeStyle::write_svg(style, out, number),
            Self::Pixel => out.extend_from_slice(GIF),
            Self::BadgeObject(number) => badge::write_object(out, number),
            Self::Metrics => server.metrics.write_page(out),
            Self::Robots => out.extend_from_slice(ROBOTS),
        }
    }
}

/// Appends the page of a counter, with links to the counters in `names`.
fn write_page(server: &ServerContext, key: &Key, text: PageText, names: &[String], out: &mut Vec<u8>) {
    let (before, number, after) = match text {
        PageText::Visitor(number) => ("You are visitor", Some(number), ["", ""]),
        PageText::Total(1) => ("", Some(1), ["visit so far", ""]),
        PageText::Total(total) => ("", Some(total), ["visits so far", ""]),
        PageText::Message(message) => ("", None, message),
        PageText::InDoubt([message, cause]) => (message, None, [cause, ""]),
    };
    let (welcome, replica, name) = (&server.welcome, &*server.served_by, server.counters.name_of(key));
    Page { welcome, before, number, after, name, names, replica, refresh: server.page_refresh }.write(out);
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The policy of an image that is opened as a page.
const NOTHING: &str = "default-src 'none'";

/// One transparent pixel (GIF89a): the header; a screen of 1 by 1 with two colours; the first colour as transparent; the
/// image; the trailer.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0\x21\xf9\x04\x01\0\0\0\0\
                     \x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\x3b";

const ROBOTS: &[u8] = b"User-agent: *\nDisallow: /count\nDisallow: /badge\n";
