//! Routing: maps the method, path and fields of a request head to a handler. No other module contains paths.
//!
//! ```
//! use notch::cors::Origins;
//! use notch::counter::{Counters, Key, Names};
//! use notch::http;
//! use notch::routes::{self, Handler, Operation};
//!
//! let main = Key::new(b"visits").expect("printable ASCII");
//! let counters = Counters { main, names: Names::Any };
//! let handler_of = |request: &[u8]| {
//!     let (head, _length) = http::parse_head(request).expect("well-formed").expect("complete");
//!     routes::match_route(&head, &counters, &Origins::default()).handler
//! };
//! assert_eq!(handler_of(b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n"), Handler::Counter(main, Operation::Count));
//! let total = Handler::Counter(main, Operation::Total);
//! assert_eq!(handler_of(b"HEAD /count HTTP/1.1\r\nHost: localhost\r\n\r\n"), total);
//! assert_eq!(handler_of(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"), Handler::Livez);
//! ```

use crate::cors::{CorsDecision, Origins};
use crate::counter::{Command, Counters, Key, PIXEL};
use crate::http::{self, BodyMode, Head, Method, PartialHead};
use crate::render::Format;

/// The handler of a request, and what its response depends on besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// The handler.
    pub handler: Handler,
    /// The route, as in the metrics.
    pub route: Route,
    /// The format that the request prefers, for handlers that have several, and for errors.
    pub format: Format,
    /// Whether the page that sent the request may read the response.
    pub cors: CorsDecision,
    /// Whether the response has its body.
    pub body: BodyMode,
}

impl RouteMatch {
    /// Returns the match of the same request after its body was rejected.
    #[must_use]
    pub fn rejected(&self) -> Self {
        let body = if self.body == BodyMode::Sent { BodyMode::Sent } else { BodyMode::Omitted };
        Self { handler: Handler::default(), route: Route::Refused, body, ..*self }
    }
}

/// The route of a request in the metrics. Their number is fixed, whatever paths clients request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// `/`.
    Page,
    /// `/count`, `/count/NAME`, `/count.gif` and `/count/NAME.gif`.
    Count,
    /// `/total`, `/total/NAME` and `/total?names=NAME,NAME`.
    Total,
    /// `/badge.svg`, `/badge.json`, `/badge/NAME.svg` and `/badge/NAME.json`.
    Badge,
    /// `/livez`.
    Livez,
    /// `/readyz`.
    Readyz,
    /// `/metrics`.
    Metrics,
    /// Any other path.
    #[default]
    Other,
    /// None: the request was rejected before routing, or while its body was read.
    Refused,
}

impl Route {
    /// The label of each, in their order.
    pub const NAMES: [&'static str; 9] =
        ["page", "count", "total", "badge", "livez", "readyz", "metrics", "other", "refused"];

    /// Returns the route of a path's handler.
    fn of_handler(handler: &Handler) -> Self {
        match handler {
            Handler::Counter(_, Operation::Welcome) => Self::Page,
            Handler::Counter(_, Operation::Count | Operation::Pixel(_)) => Self::Count,
            Handler::Counter(_, Operation::Total) | Handler::Totals => Self::Total,
            Handler::Counter(_, Operation::Badge(_) | Operation::BadgeObject) => Self::Badge,
            Handler::Livez => Self::Livez,
            Handler::Readyz => Self::Readyz,
            Handler::Metrics => Self::Metrics,
            Handler::Icon | Handler::Robots | Handler::Preflight(_) | Handler::Error(_) => Self::Other,
        }
    }
}

/// The action for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Counts a visit, or shows the total of a counter.
    Counter(Key, Operation),
    /// Shows the totals of the counters that [`named_counters`] returns.
    Totals,
    /// Responds while the process runs.
    Livez,
    /// Shows whether the store replies and this server is not shutting down.
    Readyz,
    /// Shows the metrics.
    Metrics,
    /// Responds that there is no icon, for browsers to cache.
    Icon,
    /// Shows which paths crawlers may follow.
    Robots,
    /// Allows these methods to a page of another origin.
    Preflight(&'static str),
    /// Responds with an error.
    Error(RouteError),
}

/// The action for a counter, and what shows its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Shows the start page with the total.
    Welcome,
    /// Counts one visit.
    Count,
    /// Shows the total.
    Total,
    /// Draws the badge.
    Badge(ImageVisit),
    /// Sends an image that shows nothing.
    Pixel(ImageVisit),
    /// Shows the total as the object from which shields.io draws a badge.
    BadgeObject,
}

/// Whether a request of an image is a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageVisit {
    /// It is, and is counted.
    Counted,
    /// It is a `HEAD`, and is not counted.
    Head,
    /// It is a prefetch, and is not counted, but the image is sent: a browser does not request the images of a
    /// prerendered page again at the visit.
    Prefetch,
}

/// Why a request that is well-formed is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The path is unknown.
    NotFound,
    /// The counter's name is not allowed.
    InvalidCounter,
    /// `names` lists more than [`MAX_NAMES`] counters.
    TooManyNames,
    /// The path allows only these methods.
    MethodNotAllowed(&'static str),
    /// A prefetch is not counted, so that the browser sends the request again at the visit.
    Prefetch,
}

impl Default for Handler {
    fn default() -> Self {
        Self::Error(RouteError::NotFound)
    }
}

impl Handler {
    /// Returns whether the request is a visit.
    #[must_use]
    pub fn is_visit(&self) -> bool {
        use ImageVisit::Counted;
        matches!(self, Self::Counter(_, Operation::Count | Operation::Badge(Counted) | Operation::Pixel(Counted)))
    }

    /// Returns the command for the store, which counts `visits` if the request is a visit. A handler without a counter
    /// only checks the store.
    #[must_use]
    pub fn command(&self, visits: i64) -> Command {
        match *self {
            Self::Counter(key, _) if self.is_visit() => Command::Increment { key, by: visits },
            Self::Counter(key, _) => Command::Get { key },
            _ => Command::Ping,
        }
    }
}

/// Finds the handler of a request.
#[must_use]
pub fn match_route(head: &Head<'_>, counters: &Counters, origins: &Origins) -> RouteMatch {
    let handler = find(head.path, counters);
    let route = Route::of_handler(&handler);
    let allowed = if handler.is_visit() { COUNTING } else { READING };
    let cors = decide_cors(&handler, head.origin, origins);
    let handler = match (head.method, handler) {
        (_, error @ Handler::Error(_)) => error,
        (Method::Options, _)
            if head.is_preflight && !head.origin.is_empty() && matches!(cors, CorsDecision::Allowed(_)) =>
        {
            Handler::Preflight(allowed)
        }
        (Method::Options | Method::Other, _) => Handler::Error(RouteError::MethodNotAllowed(allowed)),
        (Method::Post, _) if allowed == READING => Handler::Error(RouteError::MethodNotAllowed(READING)),
        // A prefetch is no visit, and its response would be shown at the visit. A `HEAD` is no visit either.
        (_, Handler::Counter(_, Operation::Count)) if head.is_prefetch => Handler::Error(RouteError::Prefetch),
        (Method::Head, Handler::Counter(key, Operation::Count)) => Handler::Counter(key, Operation::Total),
        (_, Handler::Counter(key, Operation::Badge(_))) => Handler::Counter(key, Operation::Badge(image_visit(head))),
        (_, Handler::Counter(key, Operation::Pixel(_))) => Handler::Counter(key, Operation::Pixel(image_visit(head))),
        (_, Handler::Counter(key, Operation::Total)) if key == counters.main && names(head.query).is_some() => {
            Handler::Totals
        }
        (_, handler) => handler,
    };
    let body = match (head.method, route, &handler) {
        // `GET` would count and return another number, which may be longer.
        (Method::Head, Route::Count, Handler::Counter(_, Operation::Total))
        | (_, _, Handler::Counter(_, Operation::Badge(ImageVisit::Head))) => BodyMode::OmittedUnsized,
        (Method::Head, ..) => BodyMode::Omitted,
        _ => BodyMode::Sent,
    };
    let format = match handler {
        // An image has the format of its path, and an error in its body is text.
        Handler::Counter(_, Operation::Badge(_) | Operation::BadgeObject | Operation::Pixel(_)) => Format::Text,
        Handler::Totals => Format::Json,
        _ => Format::choose(&head.accept),
    };
    RouteMatch { handler, route, format, cors, body }
}

/// Returns the counters in the `names` of a query, each of them once, for [`Handler::Totals`].
///
/// # Errors
/// A name is not allowed, or there are too many.
pub fn named_counters(query: &[u8], counters: &Counters) -> Result<Vec<Key>, RouteError> {
    let names = names(query).and_then(http::decode_query_value).unwrap_or_default();
    let mut keys = Vec::new();
    for name in names.split(|&byte| byte == b',') {
        let key = counters.key_of(name).ok_or(RouteError::InvalidCounter)?;
        if keys.contains(&key) {
            continue;
        }
        if keys.len() == MAX_NAMES {
            return Err(RouteError::TooManyNames);
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Returns the value of `names` in a query.
fn names(query: &[u8]) -> Option<&[u8]> {
    query.split(|&byte| byte == b'&').find_map(|part| part.strip_prefix(b"names="))
}

/// Returns whether the request of an image is a visit.
fn image_visit(head: &Head<'_>) -> ImageVisit {
    match head.method {
        _ if head.is_prefetch => ImageVisit::Prefetch,
        Method::Head => ImageVisit::Head,
        _ => ImageVisit::Counted,
    }
}

/// Returns the match of a request with a rejected head: the format of the error, and whether a page may read it.
#[must_use]
pub fn match_rejected(head: &PartialHead<'_>, counters: &Counters, origins: &Origins) -> RouteMatch {
    RouteMatch {
        route: Route::Refused,
        format: Format::choose(&head.accept),
        cors: decide_cors(&find(head.path, counters), head.origin, origins),
        body: if head.is_head { BodyMode::Omitted } else { BodyMode::Sent },
        ..RouteMatch::default()
    }
}

/// Returns the CORS decision for a path. It also covers unknown paths, so that a page with a wrong counter name can
/// read the error.
fn decide_cors(handler: &Handler, origin: &[u8], origins: &Origins) -> CorsDecision {
    match handler {
        Handler::Counter(_, Operation::Welcome) => CorsDecision::NotApplicable,
        Handler::Counter(..) | Handler::Error(_) => origins.decide(origin),
        _ => CorsDecision::NotApplicable,
    }
}

/// Returns the handler of a path.
fn find(path: &[u8], counters: &Counters) -> Handler {
    match PATHS.iter().find(|(known, _)| known.as_bytes() == path) {
        Some((_, to_handler)) => to_handler(counters.main),
        None => find_named(path, counters)
            .or_else(|| find_badge(path, counters))
            .unwrap_or(Handler::Error(RouteError::NotFound)),
    }
}

/// Returns the handler of `/count/NAME`, `/count/NAME.gif` or `/total/NAME`. No name ends in `.gif`.
fn find_named(path: &[u8], counters: &Counters) -> Option<Handler> {
    let (operation, name) = match path.strip_prefix(b"/count/") {
        Some(name) => match name.strip_suffix(PIXEL) {
            Some(name) => (Operation::Pixel(ImageVisit::Counted), name),
            None => (Operation::Count, name),
        },
        None => (Operation::Total, path.strip_prefix(b"/total/")?),
    };
    (!name.is_empty()).then(|| of_counter(counters.key_of(name), operation))
}

/// Returns the handler of a badge's path. An SVG is requested at each visit of the page that shows it, so it counts;
/// shields.io requests the object at times of its own, so that does not.
fn find_badge(path: &[u8], counters: &Counters) -> Option<Handler> {
    let path = path.strip_prefix(b"/badge")?;
    let (operation, path) = match path.strip_suffix(b".svg") {
        Some(path) => (Operation::Badge(ImageVisit::Counted), path),
        None => (Operation::BadgeObject, path.strip_suffix(b".json")?),
    };
    let key = if path.is_empty() { Some(counters.main) } else { counters.key_of(path.strip_prefix(b"/")?) };
    Some(of_counter(key, operation))
}

/// Returns the handler of a counter; there is no key if its name is not allowed.
fn of_counter(key: Option<Key>, operation: Operation) -> Handler {
    key.map_or(Handler::Error(RouteError::InvalidCounter), |key| Handler::Counter(key, operation))
}

/// Returns the handler for a counter.
type ToHandler = fn(Key) -> Handler;

/// The paths without a counter's name.
const PATHS: [(&str, ToHandler); 9] = [
    ("/count", |key| Handler::Counter(key, Operation::Count)),
    ("/", |key| Handler::Counter(key, Operation::Welcome)),
    ("/total", |key| Handler::Counter(key, Operation::Total)),
    ("/count.gif", |key| Handler::Counter(key, Operation::Pixel(ImageVisit::Counted))),
    ("/livez", |_| Handler::Livez),
    ("/readyz", |_| Handler::Readyz),
    ("/metrics", |_| Handler::Metrics),
    ("/favicon.ico", |_| Handler::Icon),
    ("/robots.txt", |_| Handler::Robots),
];

/// Most counters whose totals one request reads.
pub const MAX_NAMES: usize = 32;

/// `Allow` of the paths that only read.
const READING: &str = "GET, HEAD";

/// `Allow` of the paths that count.
const COUNTING: &str = "GET, HEAD, POST";
