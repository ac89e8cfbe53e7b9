//! The table of responses: from the outcome of a handler, in the format of the request, to status, caching and content.
//!
//! ```text
//! request head ──> Handler ──┬──────────────────> Outcome ──> Response ──> bytes
//!                            └─> reply of the store ─┘
//! ```
//!
//! [`PendingRequest::outcome`] joins a handler with the reply of the store, and [`Outcome::response`] is the table. An
//! [`Outcome`] has only the combinations of handler, reply and format that exist: there is no badge in JSON, and the
//! metrics have no format at all.

use super::content::{Content, PageText};
use super::{ServerContext, WorkerContext};
use crate::badge::BadgeStyle;
use crate::counter::{Key, Rejection, StoreError};
use crate::http::{self, Persistence, RequestError, ResponseHead, Status};
use crate::render::{Format, error_message};
use crate::routes::{Handler, ImageVisit, Operation, RouteError, RouteMatch};

/// The outcome of a handler. Each variant has what the response depends on, and nothing else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// The total, for the start page.
    Welcome(Format, &'a Key, Result<i64, StoreError>),
    /// The number of a visit.
    Count(Format, &'a Key, Result<i64, StoreError>),
    /// The total.
    Total(Format, &'a Key, Result<i64, StoreError>),
    /// The totals of several counters.
    Totals(Result<(&'a [Key], &'a [i64]), StoreError>),
    /// The number in a badge, which has a style if the query does: of the visit if it was counted, otherwise the total.
    Badge(Option<&'a BadgeStyle>, ImageVisit, Result<i64, StoreError>),
    /// The number that an image without one stands for, as for a badge.
    Pixel(ImageVisit, Result<i64, StoreError>),
    /// The total in the object of a badge.
    BadgeObject(Result<i64, StoreError>),
    /// The process runs.
    Alive(Format),
    /// Whether the server is ready.
    Readiness(Format, Result<(), NotReady>),
    /// Nothing, for `/metrics`.
    Metrics,
    /// Nothing, for `/favicon.ico`.
    Icon,
    /// Nothing, for `/robots.txt`.
    Robots,
    /// The methods that a page of another origin may use.
    Preflight(&'static str),
    /// The request is well-formed and is not served.
    RouteError(Format, RouteError),
    /// The request is not well-formed, or did not arrive in time.
    Rejected(Format, &'static RequestError),
}

/// Why a server is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotReady {
    /// It is shutting down.
    Draining,
    /// The store did not reply.
    Store(StoreError),
}

/// A response, without what depends on the connection, the origin and the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Response<'a> {
    pub(super) status: Status,
    pub(super) caching: Caching,
    /// The methods in `Allow`, or those that a preflight request may use.
    pub(super) methods: Option<&'static str>,
    pub(super) content: Content<'a>,
}

/// How long caches may store a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caching {
    /// Not at all.
    None,
    /// Not at all, in words that the image proxy of GitHub obeys.
    NoneByProxies,
    /// For a day: the response never changes while a server runs.
    OneDay,
}

impl<'a> Outcome<'a> {
    /// Returns the response: the table of all of them.
    pub(super) fn response(self) -> Response<'a> {
        use Format::{Html, Json, Text};
        match self {
            // The start page is shown without a number, too.
            Self::Welcome(Text, _, total) => ok(Content::WelcomeText(total)),
            Self::Welcome(Json, key, total) => ok(Content::WelcomeObject(key, total)),
            Self::Welcome(Html, key, Ok(total)) => ok(Content::WelcomePage(key, PageText::Total(total))),
            Self::Welcome(Html, key, Err(error)) => {
                let message = ["no count right now: ", error_message(error)];
                ok(Content::WelcomePage(key, PageText::Message(message)))
            }

            Self::Count(Text, _, Ok(number)) | Self::Total(Text, _, Ok(number)) => ok(Content::Number(number)),
            Self::Count(Json, key, Ok(number)) | Self::Total(Json, key, Ok(number)) => {
                ok(Content::CountObject(key, number))
            }
            Self::Count(Html, key, Ok(number)) => ok(Content::CounterPage(key, PageText::Visitor(number))),
            Self::Total(Html, key, Ok(total)) => ok(Content::CounterPage(key, PageText::Total(total))),
            Self::Count(format, key, Err(error)) => {
                let (status, prefix) = uncounted(error);
                counter_error(format, key, status, [prefix, error_message(error)])
            }
            Self::Total(format, key, Err(error)) => {
                counter_error(format, key, Status::ServiceUnavailable, [NO_TOTAL, error_message(error)])
            }

            Self::Totals(Ok((keys, totals))) => ok(Content::TotalsObject(keys, totals)),
            Self::Totals(Err(cause)) => error(Json, Status::ServiceUnavailable, [NO_TOTAL, error_message(cause)]),

            Self::Badge(style, visit, number) => image(visit, number, Content::Badge(style, number.ok())),
            Self::Pixel(visit, number) => image(visit, number, Content::Pixel),
            Self::BadgeObject(Ok(total)) => ok(Content::BadgeObject(Some(total))),
            Self::BadgeObject(Err(_)) => with_status(Status::ServiceUnavailable, Content::BadgeObject(None)),

            Self::Alive(format) => state(format, "alive"),
            Self::Readiness(format, Ok(())) => state(format, "ready"),
            Self::Readiness(format, Err(NotReady::Draining)) => {
                error(format, Status::ServiceUnavailable, ["not ready: this server is shutting down", ""])
            }
            Self::Readiness(format, Err(NotReady::Store(cause))) => {
                error(format, Status::ServiceUnavailable, ["not ready: ", error_message(cause)])
            }

            Self::Metrics => ok(Content::Metrics),
            Self::Robots => Response { caching: Caching::OneDay, ..ok(Content::Robots) },
            Self::Icon => Response { caching: Caching::OneDay, ..with_status(Status::NoContent, Content::Empty) },
            Self::Preflight(methods) => {
                Response { methods: Some(methods), ..with_status(Status::NoContent, Content::Empty) }
            }

            Self::RouteError(format, RouteError::NotFound) => {
                error(format, Status::NotFound, ["nothing is here: try /count or /total", ""])
            }
            Self::RouteError(format, RouteError::InvalidCounter) => {
                error(format, Status::NotFound, [INVALID_COUNTER, ""])
            }
            Self::RouteError(format, RouteError::TooManyNames) => {
                error(format, Status::BadRequest, ["too many names: one request reads at most 32 totals", ""])
            }
            Self::RouteError(format, RouteError::MethodNotAllowed(methods)) => Response {
                methods: Some(methods),
                ..error(format, Status::MethodNotAllowed, ["this method is not allowed here: use one of ", methods])
            },
            Self::RouteError(format, RouteError::Prefetch) => error(format, Status::Forbidden, [PREFETCH, ""]),
            Self::Rejected(format, cause) => error(format, cause.status, [cause.message, ""]),
        }
    }

    /// Returns the visitor's number or the total, for the log.
    pub(super) fn number(&self) -> Option<i64> {
        match *self {
            Self::Badge(_, ImageVisit::Prefetch, _) | Self::Pixel(ImageVisit::Prefetch, _) => None,
            Self::Welcome(_, _, total)
            | Self::Count(_, _, total)
            | Self::Total(_, _, total)
            | Self::Badge(_, _, total)
            | Self::Pixel(_, total)
            | Self::BadgeObject(total) => total.ok(),
            _ => None,
        }
    }
}

/// Returns the status of a visit without a number, and the first part of its message.
fn uncounted(error: StoreError) -> (Status, &'static str) {
    match error {
        StoreError::OutcomeUnknown => (Status::GatewayTimeout, "this visit may have been counted, do not repeat it: "),
        StoreError::Rejected(Rejection::TooManyCounters | Rejection::ScriptsRequired) => {
            (Status::InsufficientStorage, "not counted: ")
        }
        _ => (Status::ServiceUnavailable, "not counted, try again: "),
    }
}

/// Returns a response that caches may not store.
fn with_status(status: Status, content: Content<'_>) -> Response<'_> {
    Response { status, caching: Caching::None, methods: None, content }
}

fn ok(content: Content<'_>) -> Response<'_> {
    with_status(Status::Ok, content)
}

/// Returns a response with a state. It has no page.
fn state(format: Format, state: &'static str) -> Response<'static> {
    ok(match format {
        Format::Json => Content::MessageObject("status", [state, ""]),
        Format::Text | Format::Html => Content::Message([state, ""]),
    })
}

/// Returns a response with an error and its remedy.
fn error(format: Format, status: Status, message: [&'static str; 2]) -> Response<'static> {
    with_status(
        status,
        match format {
            Format::Text => Content::Message(message),
            Format::Json => Content::MessageObject("error", message),
            Format::Html => Content::ErrorPage(status, message),
        },
    )
}

/// Returns a response without the number of a counter. Browsers get the page of that counter, which tries again unless
/// a visit is in doubt.
fn counter_error<'a>(format: Format, key: &'a Key, status: Status, message: [&'static str; 2]) -> Response<'a> {
    match format {
        Format::Html if status == Status::GatewayTimeout => {
            with_status(status, Content::CounterPage(key, PageText::InDoubt(message)))
        }
        Format::Html => with_status(status, Content::CounterPage(key, PageText::Message(message))),
        _ => error(format, status, message),
    }
}

/// Returns a response with an image. Browsers draw it whatever its status, which is that of the response as text.
fn image(visit: ImageVisit, number: Result<i64, StoreError>, content: Content<'_>) -> Response<'_> {
    let status = match (visit, number) {
        (ImageVisit::Prefetch, _) => Status::Forbidden,
        (_, Ok(_)) => Status::Ok,
        (ImageVisit::Counted, Err(error)) => uncounted(error).0,
        (ImageVisit::Head, Err(_)) => Status::ServiceUnavailable,
    };
    Response { caching: Caching::NoneByProxies, ..with_status(status, content) }
}

impl Caching {
    /// Returns the value of `Cache-Control`.
    pub(super) fn directives(self) -> &'static str {
        match self {
            Self::None => "no-store",
            Self::NoneByProxies => "no-cache, no-store, max-age=0",
            Self::OneDay => "public, max-age=86400",
        }
    }
}

/// What a handler needs of the query of a request. Few requests have it.
pub(super) enum Query {
    /// The style of a badge.
    Badge(BadgeStyle),
    /// The counters whose totals are requested, and the totals once the store has replied.
    Totals(Vec<Key>, Vec<i64>),
}

impl Query {
    fn badge_style(&self) -> Option<&BadgeStyle> {
        if let Self::Badge(style) = self { Some(style) } else { None }
    }

    fn totals(&self) -> (&[Key], &[i64]) {
        if let Self::Totals(keys, totals) = self { (keys, totals) } else { Default::default() }
    }
}

/// A request, as far as its response depends on it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PendingRequest {
    pub(super) route_match: RouteMatch,
    pub(super) persistence: Persistence,
}

impl PendingRequest {
    /// Returns the outcome of the request, or `None` if it depends on a reply of the store and there is none yet.
    /// `query` is what the handler needs of the query.
    pub(super) fn outcome<'a>(
        &'a self,
        reply: Option<Result<i64, StoreError>>,
        query: Option<&'a Query>,
        draining: bool,
    ) -> Option<Outcome<'a>> {
        let RouteMatch { handler, format, .. } = &self.route_match;
        let format = *format;
        Some(match (handler, reply) {
            (Handler::Livez, _) => Outcome::Alive(format),
            // A server that is shutting down is not ready in any case.
            (Handler::Readyz, _) if draining => Outcome::Readiness(format, Err(NotReady::Draining)),
            (Handler::Metrics, _) => Outcome::Metrics,
            (Handler::Icon, _) => Outcome::Icon,
            (Handler::Robots, _) => Outcome::Robots,
            (Handler::Preflight(methods), _) => Outcome::Preflight(methods),
            (Handler::Error(error), _) => Outcome::RouteError(format, *error),
            (Handler::Readyz | Handler::Counter(..) | Handler::Totals, None) => return None,
            (Handler::Readyz, Some(reply)) => Outcome::Readiness(format, reply.map(drop).map_err(NotReady::Store)),
            (Handler::Totals, Some(reply)) => {
                Outcome::Totals(reply.map(|_| query.map(Query::totals).unwrap_or_default()))
            }
            (Handler::Counter(key, operation), Some(number)) => match operation {
                Operation::Welcome => Outcome::Welcome(format, key, number),
                Operation::Count => Outcome::Count(format, key, number),
                Operation::Total => Outcome::Total(format, key, number),
                Operation::Badge(visit) => Outcome::Badge(query.and_then(Query::badge_style), *visit, number),
                Operation::BadgeObject => Outcome::BadgeObject(number),
                Operation::Pixel(visit) => Outcome::Pixel(*visit, number),
            },
        })
    }

    /// Appends the response to an outcome, and counts it in the metrics. Returns its status.
    pub(super) fn write_response(
        &self,
        outcome: Outcome<'_>,
        server: &ServerContext,
        worker: &mut WorkerContext,
        out: &mut Vec<u8>,
    ) -> Status {
        let status = match outcome {
            Outcome::Count(Format::Text | Format::Json, key, Ok(number)) => {
                if !worker.visit_cache.write(self, key, number, out) {
                    let start = out.len();
                    self.render(&outcome.response(), server, worker, out);
                    worker.visit_cache.store(self, key, number, &out[start..]);
                }
                Status::Ok
            }
            _ => {
                let response = outcome.response();
                self.render(&response, server, worker, out);
                response.status
            }
        };
        server.metrics(worker).record_response(self.route_match.route, status);
        status
    }

    /// Appends a response.
    fn render(&self, response: &Response<'_>, server: &ServerContext, worker: &WorkerContext, out: &mut Vec<u8>) {
        let Response { status, caching, methods, content } = response;
        let (media, policy) = content.media();
        let head = ResponseHead {
            status: *status,
            media,
            cache: caching.directives(),
            policy,
            allow: *methods,
            origin: server.origins.header_value(self.route_match.cors),
            body: self.route_match.body,
            persistence: self.persistence,
        };
        http::write_response(out, &head, &worker.date, &server.served_by, &mut |out| content.write(server, out));
    }
}

pub(super) const INVALID_COUNTER: &str = "no such counter: COUNTERS lists the names that are allowed, of 1 to 32 \
                                          letters, digits, dots, hyphens, underscores, not ending in .gif";

const NO_TOTAL: &str = "no total, try again: ";

const PREFETCH: &str = "not counted: this is a prefetch, and the visit is counted when it is made";

#[cfg(test)]
mod tests;
