use super::Registry;
use super::state::LayerState;
use crate::chaos::Chaos;
use crate::circuit_breaker::Circuit;
use crate::error::InvalidConfig;
use crate::secret::Secret;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

const PAGE: &str = include_str!("page.html");

/// Serves a [`Registry`] over HTTP: a page for people, and the same state for machines. Made by
/// [`Registry::service`].
///
/// | request | response |
/// |---|---|
/// | `GET /` | the page, which refreshes itself each second |
/// | `GET /metrics` | [`Registry::text`] |
/// | `GET /state.json` | [`Registry::json`] |
/// | `POST /actions/INSTANCE/ID/force_open`, `…/force_closed`, `…/reset` | forces or resets the circuit of an entry |
/// | `POST /actions/INSTANCE/ID/set_limit/N` | sets the concurrency limit of an entry |
/// | `POST /actions/INSTANCE/ID/chaos_for/SECONDS`, `…/chaos_off` | switches the faults of an entry on for so long, or off |
///
/// Only the end of the path counts, so the service can be mounted below a prefix. The page is there for each path
/// that ends with a slash.
///
/// # Actions
///
/// Actions are off until you set a token with [`allow_actions`](Self::allow_actions). They need the header
/// `Authorization: Bearer TOKEN`. `INSTANCE` and `ID` are those in `/state.json`: an action that reaches another
/// process than the page was made for is refused.
///
/// | status | when |
/// |---|---|
/// | 204 | done |
/// | 400 | the limit or the time is not a number |
/// | 401 | no token, or a wrong one; logged at WARN. Also if actions are off |
/// | 404 | there is no such entry, or it has no such layer |
/// | 409 | `INSTANCE` is another process |
///
/// Serve it on an address that only your operators reach: the page and the metrics need no token.
#[derive(Clone)]
pub struct RegistryService {
    registry: Registry,
    token: Option<Secret>,
}

impl RegistryService {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            token: None,
        }
    }

    /// Allows actions to everybody who knows `token`. It is compared in constant time. Default: no actions.
    ///
    /// # Errors
    /// The token has fewer than 16 bytes, or other characters than visible ASCII.
    pub fn allow_actions(mut self, token: impl AsRef<str>) -> Result<Self, InvalidConfig> {
        self.token = Some(Secret::new("token", token.as_ref())?);
        Ok(self)
    }

    fn respond<B>(&self, req: &Request<B>) -> Response<String> {
        let path = req.uri().path();
        let from_end: Vec<_> = path.rsplit('/').take(5).collect();
        let reads = matches!(*req.method(), Method::GET | Method::HEAD);
        match from_end[..] {
            ["metrics", ..] if reads => respond(
                "text/plain; version=0.0.4; charset=utf-8",
                self.registry.text(),
            ),
            ["state.json", ..] if reads => {
                let state = self.registry.write_json(self.token.is_some());
                respond("application/json", state)
            }
            ["", ..] if reads => page(),
            [action, id, instance, "actions", ..] if req.method() == Method::POST => {
                self.act(req, instance, id, action, None)
            }
            [value, action, id, instance, "actions"] if req.method() == Method::POST => {
                self.act(req, instance, id, action, Some(value))
            }
            ["metrics" | "state.json" | "", ..] => method_not_allowed("GET, HEAD"),
            [_, _, _, "actions", ..] | [_, _, _, _, "actions"] => method_not_allowed("POST"),
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    fn act<B>(
        &self,
        req: &Request<B>,
        instance: &str,
        id: &str,
        action: &str,
        value: Option<&str>,
    ) -> Response<String> {
        if !self.is_allowed(req) {
            tracing::warn!(target: "buttress::observe", path = req.uri().path(), "action_refused");
            let mut response = status(StatusCode::UNAUTHORIZED);
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
            return response;
        }
        if instance != self.registry.instance() {
            return status(StatusCode::CONFLICT);
        }
        let layers = id.parse().ok().and_then(|id| self.registry.layers(id));
        let Some(layers) = layers else {
            return status(StatusCode::NOT_FOUND);
        };
        let code = match (action, value) {
            ("force_open", None) => on_circuit(&layers, Circuit::force_open),
            ("force_closed", None) => on_circuit(&layers, Circuit::force_closed),
            ("reset", None) => on_circuit(&layers, Circuit::reset),
            ("set_limit", Some(value)) => set_limit(&layers, value),
            ("chaos_off", None) => on_chaos(&layers, Chaos::off),
            ("chaos_for", Some(seconds)) => match seconds.parse() {
                Ok(seconds) => {
                    let length = Duration::from_secs(seconds);
                    on_chaos(&layers, |chaos| chaos.for_the_next(length))
                }
                Err(_) => StatusCode::BAD_REQUEST,
            },
            _ => StatusCode::NOT_FOUND,
        };
        if code == StatusCode::NO_CONTENT {
            tracing::info!(target: "buttress::observe", path = req.uri().path(), "action");
        }
        status(code)
    }

    fn is_allowed<B>(&self, req: &Request<B>) -> bool {
        let given = req.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|given| given.strip_prefix(b"Bearer "));
        match (&self.token, given) {
            (Some(token), Some(given)) => token.is(given),
            _ => false,
        }
    }
}

fn on_chaos(layers: &[LayerState], act: impl Fn(&Chaos)) -> StatusCode {
    let mut code = StatusCode::NOT_FOUND;
    for layer in layers {
        if let LayerState::Chaos(chaos) = layer {
            act(chaos);
            code = StatusCode::NO_CONTENT;
        }
    }
    code
}

fn on_circuit(layers: &[LayerState], act: impl Fn(&Circuit)) -> StatusCode {
    let mut code = StatusCode::NOT_FOUND;
    for layer in layers {
        if let LayerState::Circuit(circuit) = layer {
            act(circuit);
            code = StatusCode::NO_CONTENT;
        }
    }
    code
}

fn set_limit(layers: &[LayerState], value: &str) -> StatusCode {
    let Ok(max_in_flight) = value.parse() else {
        return StatusCode::BAD_REQUEST;
    };
    let mut code = StatusCode::NOT_FOUND;
    for layer in layers {
        if let LayerState::LoadShed(limit) = layer {
            limit.set_limit(max_in_flight);
            code = StatusCode::NO_CONTENT;
        }
    }
    code
}

fn page() -> Response<String> {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = respond(
        "text/html; charset=utf-8",
        PAGE.replace("{{nonce}}", &nonce),
    );
    let policy = policy.try_into().expect("the policy is ASCII");
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, policy);
    response
}

fn respond(content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn status(code: StatusCode) -> Response<String> {
    let mut response = respond("text/plain", String::new());
    *response.status_mut() = code;
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<String> {
    let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

impl<B> Service<Request<B>> for RegistryService {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Request<B>) -> Self::Future {
        let mut response = self.respond(&req);
        if req.method() == Method::HEAD {
            response.body_mut().clear();
        }
        ready(Ok(response))
    }
}

impl fmt::Debug for RegistryService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryService")
            .field("registry", &self.registry)
            .field("actions", &self.token.is_some())
            .finish()
    }
}
