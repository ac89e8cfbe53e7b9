//! Routing: maps the method, path and fields of a request head to a handler. No other module contains paths.

use crate::cors::{CorsDecision, Origins};
use crate::counter::{Counters, Key};
use crate::http::{Head, Method, PartialHead};
use crate::render::Format;

/// The handler of a request, and the format of its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// The handler.
    pub handler: Handler,
    /// The route, as in the metrics.
    pub route: Route,
    /// The format of the response.
    pub format: Format,
    /// Whether the page that sent the request may read the response.
    pub cors: CorsDecision,
    /// The request is a `HEAD`: the response has no body.
    pub is_head: bool,
}

impl RouteMatch {
    /// Returns whether the body of `GET` may differ in length from this one, because `GET` would count and return
    /// another number: `HEAD` of a path that counts.
    #[must_use]
    pub fn has_unknown_length(&self) -> bool {
        matches!(self.handler, Handler::Total(_)) && (self.route == Route::Count || self.format == Format::Badge)
    }
}

/// The route of a request in the metrics. Their number is fixed, whatever paths clients request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// `/`.
    Page,
    /// `/count` and `/count/NAME`.
    Count,
    /// `/total` and `/total/NAME`.
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
    fn of_handler(handler: Handler, is_badge: bool) -> Self {
        match handler {
            _ if is_badge => Self::Badge,
            Handler::Welcome(_) => Self::Page,
            Handler::Count(_) => Self::Count,
            Handler::Total(_) => Self::Total,
            Handler::Livez => Self::Livez,
            Handler::Readyz => Self::Readyz,
            Handler::Metrics => Self::Metrics,
            _ => Self::Other,
        }
    }
}

/// The action for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Handler {
    /// Shows the start page with the total.
    Welcome(Key),
    /// Counts one visit.
    Count(Key),
    /// Shows the total and counts nothing.
    Total(Key),
    /// Refuses to count a prefetch, so that the browser sends the request again at the visit.
    Prefetch(Key),
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
    /// Responds that the path is unknown.
    #[default]
    NotFound,
    /// Responds that the counter's name is not allowed.
    InvalidCounter,
    /// Responds that the path allows only these methods.
    MethodNotAllowed(&'static str),
}

/// Finds the handler of a request.
#[must_use]
pub fn match_route(head: &Head<'_>, counters: &Counters, origins: &Origins) -> RouteMatch {
    let (handler, badge_format) = find(head.path, counters);
    let route = Route::of_handler(handler, badge_format.is_some());
    let allowed = match handler {
        Handler::Count(_) => COUNTING,
        _ => READING,
    };
    let cors = decide_cors(handler, head.origin, origins);
    let handler = match (head.method, handler) {
        (_, Handler::NotFound | Handler::InvalidCounter) => handler,
        (Method::Options, _)
            if head.is_preflight && !head.origin.is_empty() && matches!(cors, CorsDecision::Allowed(_)) =>
        {
            Handler::Preflight(allowed)
        }
        (Method::Options | Method::Other, _) => Handler::MethodNotAllowed(allowed),
        (Method::Post, _) if allowed == READING => Handler::MethodNotAllowed(READING),
        // A prefetch is no visit, and its response would be shown at the visit. A `HEAD` is no visit either.
        (_, Handler::Count(key)) if head.is_prefetch => Handler::Prefetch(key),
        (Method::Head, Handler::Count(key)) => Handler::Total(key),
        (_, handler) => handler,
    };
    let format = match (badge_format, handler) {
        (Some(format), Handler::Count(_) | Handler::Total(_) | Handler::Prefetch(_)) => format,
        _ => Format::choose(&head.accept),
    };
    RouteMatch { handler, route, format, cors, is_head: head.method == Method::Head }
}

/// Returns the match of a request with a rejected head: the format of the error, and whether a page may read it.
#[must_use]
pub fn match_rejected(head: &PartialHead<'_>, counters: &Counters, origins: &Origins) -> RouteMatch {
    let (handler, _) = find(head.path, counters);
    RouteMatch {
        route: Route::Refused,
        format: Format::choose(&head.accept),
        cors: decide_cors(handler, head.origin, origins),
        is_head: head.is_head,
        ..RouteMatch::default()
    }
}

/// Returns the CORS decision for a path. It also covers unknown paths, so that a page with a wrong counter name can
/// read the error.
fn decide_cors(handler: Handler, origin: &[u8], origins: &Origins) -> CorsDecision {
    match handler {
        Handler::Count(_) | Handler::Total(_) | Handler::NotFound | Handler::InvalidCounter => origins.decide(origin),
        _ => CorsDecision::NotApplicable,
    }
}

/// Returns the handler of a path, and the format if it is a badge.
fn find(path: &[u8], counters: &Counters) -> (Handler, Option<Format>) {
    match find_unformatted(path, counters) {
        Handler::NotFound => find_badge(path, counters).unwrap_or((Handler::NotFound, None)),
        handler => (handler, None),
    }
}

/// Returns the handler of a path whose format the `Accept` fields decide.
fn find_unformatted(path: &[u8], counters: &Counters) -> Handler {
    match PATHS.iter().find(|(known, _)| known.as_bytes() == path) {
        Some((_, to_handler)) => to_handler(counters.main),
        None => find_named(path, counters).unwrap_or(Handler::NotFound),
    }
}

/// Returns the handler of `/count/NAME` or `/total/NAME`.
fn find_named(path: &[u8], counters: &Counters) -> Option<Handler> {
    let (to_handler, name): (ToHandler, _) = match path.strip_prefix(b"/count/") {
        Some(name) => (Handler::Count, name),
        None => (Handler::Total, path.strip_prefix(b"/total/")?),
    };
    (!name.is_empty()).then(|| counters.key_of(name).map_or(Handler::InvalidCounter, to_handler))
}

/// Returns the handler and the format of a badge's path. An SVG is requested at each visit of the page that shows it,
/// so it counts; shields.io requests the JSON at times of its own, so that does not.
fn find_badge(path: &[u8], counters: &Counters) -> Option<(Handler, Option<Format>)> {
    let path = path.strip_prefix(b"/badge")?;
    let ((to_handler, format), path): ((ToHandler, _), _) = match path.strip_suffix(b".svg") {
        Some(path) => ((Handler::Count, Format::Badge), path),
        None => ((Handler::Total, Format::Shield), path.strip_suffix(b".json")?),
    };
    let key = if path.is_empty() { Some(counters.main) } else { counters.key_of(path.strip_prefix(b"/")?) };
    Some(key.map_or((Handler::InvalidCounter, None), |key| (to_handler(key), Some(format))))
}

/// Returns the handler for a counter.
type ToHandler = fn(Key) -> Handler;

/// The paths without a counter's name.
const PATHS: [(&str, ToHandler); 8] = [
    ("/count", Handler::Count),
    ("/", Handler::Welcome),
    ("/total", Handler::Total),
    ("/livez", |_| Handler::Livez),
    ("/readyz", |_| Handler::Readyz),
    ("/metrics", |_| Handler::Metrics),
    ("/favicon.ico", |_| Handler::Icon),
    ("/robots.txt", |_| Handler::Robots),
];

/// `Allow` of the paths that only read.
const READING: &str = "GET, HEAD";

/// `Allow` of the paths that count.
const COUNTING: &str = "GET, HEAD, POST";
