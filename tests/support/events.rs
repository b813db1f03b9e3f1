//! The events of this crate as text: level, target, name, and the fields in order.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Once;
use tracing::field::Field;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

thread_local!(static EVENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

/// The events that `work` emits on this thread.
pub(crate) async fn of(work: impl Future) -> Vec<String> {
    listen();
    EVENTS.take();
    work.await;
    EVENTS.take()
}

/// Installs one subscriber for the whole process. A subscriber for one thread would miss events of
/// call sites that another thread reached first. Events are recorded per thread, and so per test.
fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        tracing_subscriber::registry().with(Record).init();
        tracing::callsite::rebuild_interest_cache();
    });
}

struct Record;

impl<S: tracing::Subscriber> Layer<S> for Record {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("buttress") {
            return;
        }
        let (level, target, name) = (metadata.level(), metadata.target(), metadata.name());
        let mut line = format!("{level} {target} {name}");
        event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
            // The message is for people and may change.
            if field.name() != "message" {
                write!(line, " {field}={value:?}").unwrap();
            }
        });
        EVENTS.with_borrow_mut(|events| events.push(line));
    }
}
