//! The span of each attempt: its fields, and what is inside it.

use buttress::http::{AttemptSpanLayer, stack};
use http::{Request, Response};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::{Layer, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

type Fields = BTreeMap<&'static str, String>;

/// The spans in the order of their start, each with its fields and the number of events inside it.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(u64, Fields)>>>);

impl Spans {
    fn with(&self, id: &Id, change: impl FnOnce(&mut Fields)) {
        let mut spans = self.0.lock().unwrap();
        let found = spans
            .iter_mut()
            .rev()
            .find(|(known, _)| *known == id.into_u64());
        change(&mut found.unwrap().1);
    }

    /// Takes the fields of all spans.
    fn take(&self) -> Vec<Fields> {
        let spans = std::mem::take(&mut *self.0.lock().unwrap());
        spans.into_iter().map(|(_, fields)| fields).collect()
    }
}

struct Written<'a>(&'a mut Fields);

impl Visit for Written<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().target() != "buttress::http" {
            return;
        }
        assert_eq!(attributes.metadata().name(), "attempt");
        let mut fields = Fields::new();
        attributes.record(&mut Written(&mut fields));
        self.0.lock().unwrap().push((id.into_u64(), fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.with(id, |fields| values.record(&mut Written(fields)));
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if let (Some(span), "of the client") = (cx.event_span(event), event.metadata().target()) {
            self.with(&span.id(), |fields| {
                fields.insert("event", "inside".to_owned());
            });
        }
    }
}

fn seen() -> (Spans, tracing::subscriber::DefaultGuard) {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    (spans, tracing::subscriber::set_default(subscriber))
}

fn get() -> Request<()> {
    Request::get("http://orders.internal:8080/7")
        .body(())
        .unwrap()
}

fn fields<const N: usize>(fields: [(&'static str, &str); N]) -> Fields {
    let about = [
        ("http.request.method", "GET"),
        ("otel.kind", "client"),
        ("server.address", "orders.internal"),
        ("server.port", "8080"),
    ];
    let all = about.into_iter().chain(fields);
    all.map(|(name, value)| (name, value.to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_span_with_its_number_and_its_error() {
    let (spans, _guard) = seen();
    let statuses = Arc::new(Mutex::new(vec![200, 503]));
    let client = service_fn(move |_: Request<()>| {
        let status = statuses.lock().unwrap().pop().unwrap();
        async move {
            tokio::task::yield_now().await;
            tracing::info!(target: "of the client", "sending");
            Ok::<_, Infallible>(Response::builder().status(status).body(()).unwrap())
        }
    });
    let stack = stack().service(AttemptSpanLayer.layer(client)).unwrap();
    stack.oneshot(get()).await.unwrap();
    let first = fields([
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("event", "inside"),
    ]);
    let second = fields([
        ("http.request.resend_count", "1"),
        ("http.response.status_code", "200"),
        ("event", "inside"),
    ]);
    assert_eq!(spans.take(), [first, second]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_a_response_says_why() {
    let (spans, _guard) = seen();
    let refused = service_fn(|_: Request<()>| async {
        Err::<Response<()>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let service = AttemptSpanLayer.layer(refused);
    service.oneshot(get()).await.unwrap_err();
    assert_eq!(spans.take(), [fields([("error.type", "transient")])]);

    let silent = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
    let builder = stack().no_retry().attempt_timeout(Duration::from_secs(1));
    let stack = builder.service(AttemptSpanLayer.layer(silent)).unwrap();
    stack.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(spans.take(), [fields([("error.type", "timed_out")])]);

    let left = tokio::time::timeout(Duration::from_millis(1), stack.oneshot(get())).await;
    left.unwrap_err();
    assert_eq!(spans.take(), [fields([("error.type", "cancelled")])]);
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn the_span_of_a_request_of_reqwest_has_its_host() {
    let (spans, _guard) = seen();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    let request = reqwest::Request::new(http::Method::POST, url);
    let service = AttemptSpanLayer.layer(reqwest::Client::new());
    service.oneshot(request).await.unwrap_err();
    let port = port.to_string();
    let expected = [
        ("http.request.method", "POST"),
        ("otel.kind", "client"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("error.type", "transient"),
    ];
    let expected = expected.map(|(name, value)| (name, value.to_owned()));
    assert_eq!(spans.take(), [Fields::from(expected)]);
}
