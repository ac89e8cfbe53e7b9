//! The response to each request: status, fields and body, from its handler, the store's reply and the format.

use super::{ServerContext, WorkerContext};
use crate::badge::{self, BadgeStyle};
use crate::buffers::Buffers;
use crate::counter::{Key, Names, Rejection, StoreError};
use crate::decimal::Decimal;
use crate::http::{self, Persistence, ResponseHead, Status};
use crate::metrics;
use crate::render::{self, Format, Page};
use crate::routes::{Handler, RouteMatch};

/// A request, as far as its response depends on it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PendingRequest {
    pub(super) route_match: RouteMatch,
    pub(super) persistence: Persistence,
}

impl PendingRequest {
    /// Returns whether the response depends on the store. A server that is shutting down is not ready in any case.
    pub(super) fn needs_store(&self, worker: &WorkerContext) -> bool {
        match self.route_match.handler {
            Handler::Welcome(_) | Handler::Count(_) | Handler::Total(_) => true,
            Handler::Readyz => !worker.draining,
            // A prefetched badge is drawn: a browser does not request the images of a prerendered page again at the
            // visit.
            Handler::Prefetch(_) => self.route_match.format == Format::Badge,
            _ => false,
        }
    }

    /// Writes the response and returns its status. `total` is the store's reply, if there was a command; `badge_style`
    /// is set for a badge.
    pub(super) fn write_response(
        &self,
        total: Result<i64, StoreError>,
        badge_style: Option<&BadgeStyle>,
        context: &ServerContext,
        worker: &mut WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let RouteMatch { ref handler, route, format, .. } = self.route_match;
        if let (Format::Html, Handler::Welcome(key) | Handler::Count(key) | Handler::Total(key)) = (format, handler) {
            return self.write_page(key, total, context, worker, buffers);
        }
        if let Some(style) = badge_style {
            return self.write_badge(total, style, context, worker, buffers);
        }
        let number = total.map(Decimal::new);
        if let (Handler::Count(key), Ok(number)) = (handler, &number) {
            worker.write_count(buffers.output(), self, context, &render::count(format, key, number));
            context.metrics(worker).record_response(route, Status::Ok);
            return Status::Ok;
        }
        let page;
        let mut head = ResponseHead { persistence: self.persistence, ..default_head(format) };
        let body = match (handler, &number) {
            (Handler::Welcome(key), number) => context.welcome.body(format, key, number),
            (Handler::Total(_), Err(_)) if format == Format::Shield => {
                head.status = message(handler, total, worker.draining).0;
                render::shield(badge::UNAVAILABLE.as_bytes(), b"lightgrey")
            }
            (Handler::Total(key), Ok(number)) => render::count(format, key, number),
            (Handler::Icon, _) => {
                head = ResponseHead { status: Status::NoContent, media: None, cache: ONE_DAY, ..head };
                render::Pieces::new(&[])
            }
            (Handler::Metrics, _) => {
                head.media = Some(metrics::MEDIA);
                page = context.metrics.page();
                render::Pieces::new(&[&page])
            }
            (&Handler::Preflight(methods), _) => {
                head = ResponseHead { status: Status::NoContent, media: None, allow: Some(methods), ..head };
                render::Pieces::new(&[])
            }
            (Handler::Robots, _) => {
                head = ResponseHead { media: Some(Format::Text.media()), cache: ONE_DAY, ..head };
                render::Pieces::new(&[ROBOTS])
            }
            _ => {
                let (status, message) = message(handler, total, worker.draining);
                head.status = status;
                if let Handler::MethodNotAllowed(methods) = *handler {
                    head.allow = Some(methods);
                }
                return context.write_message(&self.route_match, head, message, worker, buffers);
            }
        };
        context.write_response(&self.route_match, head, &body, worker, buffers)
    }

    /// Writes the page of a counter.
    fn write_page(
        &self,
        key: &Key,
        total: Result<i64, StoreError>,
        context: &ServerContext,
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let RouteMatch { handler, format, .. } = self.route_match;
        let (status, after) = match (handler, total) {
            (Handler::Welcome(_), Err(error)) => (Status::Ok, ["no count right now: ", render::error_message(error)]),
            (_, Err(_)) => message(&handler, total, worker.draining),
            (Handler::Count(_), Ok(_)) => (Status::Ok, ["", ""]),
            (_, Ok(1)) => (Status::Ok, ["visit so far", ""]),
            (_, Ok(_)) => (Status::Ok, ["visits so far", ""]),
        };
        let number = total.map(Decimal::new);
        let names: &[_] = match (handler, &context.counters.names) {
            (Handler::Welcome(_), Names::List(names)) => names,
            _ => &[],
        };
        let page = Page {
            welcome: &context.welcome,
            before: if let (Handler::Count(_), Ok(_)) = (handler, total) { "You are visitor" } else { "" },
            number: number.as_deref().unwrap_or_default(),
            after,
            name: context.counters.name_of(key),
            names,
            replica: &context.served_by,
        };
        let policy = Some(render::POLICY);
        let head = ResponseHead { status, policy, persistence: self.persistence, ..default_head(format) };
        context.write_response(&self.route_match, head, &[&page.html()], worker, buffers)
    }

    /// Writes a badge. Browsers draw it whatever its status; the status is the same as that of the text response.
    fn write_badge(
        &self,
        total: Result<i64, StoreError>,
        style: &BadgeStyle,
        context: &ServerContext,
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let RouteMatch { handler, format, .. } = self.route_match;
        let status = match (handler, total) {
            (Handler::Count(_) | Handler::Total(_), Ok(_)) => Status::Ok,
            _ => message(&handler, total, worker.draining).0,
        };
        let head = ResponseHead {
            status,
            policy: Some("default-src 'none'"),
            cache: UNCACHED_BY_PROXIES,
            persistence: self.persistence,
            ..default_head(format)
        };
        let svg = style.svg(total.map(Decimal::new).as_deref().ok());
        context.write_response(&self.route_match, head, &[&svg], worker, buffers)
    }
}

impl ServerContext {
    /// Writes a response and counts it in the metrics. Returns its status.
    fn write_response(
        &self,
        route_match: &RouteMatch,
        head: ResponseHead<'_>,
        body: &[&[u8]],
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let head = ResponseHead {
            origin: self.origins.header_value(route_match.cors),
            head_only: route_match.is_head,
            unsized_body: route_match.has_unknown_length(),
            ..head
        };
        http::write_response(buffers.output(), &head, &worker.date, &self.served_by, body);
        self.metrics(worker).record_response(route_match.route, head.status);
        head.status
    }

    /// Writes a response with a message and no number: one line, or a page for an error that a browser gets.
    pub(super) fn write_message(
        &self,
        route_match: &RouteMatch,
        head: ResponseHead<'_>,
        message: [&str; 2],
        worker: &WorkerContext,
        buffers: &mut Buffers,
    ) -> Status {
        let is_error = head.status != Status::Ok;
        if route_match.format == Format::Html && is_error {
            let page = render::error_page(head.status.line(), message, &self.served_by);
            let (media, policy) = (Some(route_match.format.media()), Some(render::POLICY));
            return self.write_response(route_match, ResponseHead { media, policy, ..head }, &[&page], worker, buffers);
        }
        let format = if route_match.format == Format::Json { Format::Json } else { Format::Text };
        let body = render::message(format, if is_error { "error" } else { "status" }, message);
        let head = ResponseHead { media: Some(format.media()), ..head };
        self.write_response(route_match, head, &body, worker, buffers)
    }
}

/// Returns the status and the message of a response without a number: a state, or an error and its remedy.
fn message(handler: &Handler, total: Result<i64, StoreError>, draining: bool) -> (Status, [&'static str; 2]) {
    match (handler, total) {
        (Handler::Livez, _) => (Status::Ok, ["alive", ""]),
        (Handler::Readyz, _) if draining => {
            (Status::ServiceUnavailable, ["not ready: this server is shutting down", ""])
        }
        (Handler::Readyz, Ok(_)) => (Status::Ok, ["ready", ""]),
        (Handler::Readyz, Err(error)) => (Status::ServiceUnavailable, ["not ready: ", render::error_message(error)]),
        (Handler::Count(_), Err(error @ StoreError::OutcomeUnknown)) => {
            (Status::GatewayTimeout, [IN_DOUBT, render::error_message(error)])
        }
        (
            Handler::Count(_),
            Err(error @ StoreError::Rejected(Rejection::TooManyCounters | Rejection::ScriptsRequired)),
        ) => (Status::InsufficientStorage, ["not counted: ", render::error_message(error)]),
        (Handler::Count(_), Err(error)) => {
            (Status::ServiceUnavailable, ["not counted, try again: ", render::error_message(error)])
        }
        (Handler::Total(_), Err(error)) => {
            (Status::ServiceUnavailable, ["no total, try again: ", render::error_message(error)])
        }
        (Handler::Prefetch(_), _) => (Status::Forbidden, [PREFETCH, ""]),
        (Handler::MethodNotAllowed(methods), _) => {
            (Status::MethodNotAllowed, ["this method is not allowed here: use one of ", methods])
        }
        (Handler::InvalidCounter, _) => (Status::NotFound, [INVALID_COUNTER, ""]),
        _ => (Status::NotFound, ["nothing is here: try /count or /total", ""]),
    }
}

/// Returns the head that most responses have: 200, and not to be stored by caches.
pub(super) fn default_head(format: Format) -> ResponseHead<'static> {
    ResponseHead {
        status: Status::Ok,
        media: Some(format.media()),
        cache: "no-store",
        policy: None,
        allow: None,
        origin: None,
        head_only: false,
        unsized_body: false,
        persistence: Persistence::Open,
    }
}

pub(super) const INVALID_COUNTER: &str = "no such counter: COUNTERS lists the names that are allowed, of 1 to 32 \
                                          letters, digits, dots, hyphens, underscores";

const PREFETCH: &str = "not counted: this is a prefetch, and the visit is counted when it is made";

const IN_DOUBT: &str = "this visit may have been counted, do not repeat it: ";

/// For responses that never change while a server runs.
const ONE_DAY: &str = "public, max-age=86400";

/// For badges, since the image proxy of GitHub obeys no weaker directives.
const UNCACHED_BY_PROXIES: &str = "no-cache, no-store, max-age=0";

const ROBOTS: &[u8] = b"User-agent: *\nDisallow: /count\nDisallow: /badge\n";
