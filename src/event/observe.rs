use super::Event;
use std::fmt;
use std::iter::successors;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

/// Receives the events of layers, for metrics, tests or alerts of your own.
///
/// Add an observer with `observe` on a handle or a layer, or for all layers of a stack with
/// [`StackBuilder::observer`](crate::http::StackBuilder::observer). Every function that takes `&Event` is an
/// observer.
///
/// An observer is called after the event was sent to `tracing`, on the thread that caused the event, and outside
/// all locks of this crate. Keep it short: the call waits for it. If it panics, the panic reaches that call, and
/// no other. A panic is dropped if the event comes from dropping a call.
///
/// ```
/// use buttress::event::Event;
/// use buttress::load_shed::ConcurrencyLimit;
/// use buttress::{ErrorLayer, LoadShedLayer};
/// use std::convert::Infallible;
/// use std::sync::{Arc, Mutex};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let seen = Arc::new(Mutex::new(Vec::new()));
/// let limit = ConcurrencyLimit::new(0);
/// let events = seen.clone();
/// limit.observe(move |event: &Event| events.lock().unwrap().push(*event));
///
/// let service = ServiceBuilder::new()
///     .layer(LoadShedLayer::from(limit))
///     .layer(ErrorLayer)
///     .service(service_fn(|()| async { Ok::<_, Infallible>(()) }));
/// service.oneshot(()).await.unwrap_err();
/// assert!(matches!(seen.lock().unwrap()[..], [Event::Overloaded { limit: 0, .. }]));
/// # }
/// ```
pub trait Observe: Send + Sync {
    /// Called for each event.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observe for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// The observers of a handle. Clones share the list. It only grows, so that reading it takes no lock.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    list: Arc<OnceLock<Node>>,
    /// Whether `tracing` is not told.
    quiet: bool,
}

struct Node {
    observer: Arc<dyn Observe>,
    next: Box<OnceLock<Node>>,
}

// Handles stay unwind-safe: what an observer keeps through its own panic does not matter to them.
impl UnwindSafe for Observers {}
impl RefUnwindSafe for Observers {}

impl Observers {
    /// Of a part that is not to be seen outside: its events go to its observers only.
    pub(crate) fn quiet() -> Self {
        Self {
            quiet: true,
            ..Self::default()
        }
    }

    pub(crate) fn add(&self, observer: Arc<dyn Observe>) {
        let mut node = Node {
            observer,
            next: Box::default(),
        };
        // A handle that several stacks share is told once, not once for each stack.
        if self.iter().any(|known| Arc::ptr_eq(known, &node.observer)) {
            return;
        }
        let mut end = &*self.list;
        while let Err(back) = end.set(node) {
            node = back;
            end = &end.get().expect("it is set").next;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.get().is_none()
    }

    /// Sends the event to `tracing`, and then to the observers.
    pub(crate) fn tell(&self, event: Event) {
        if !self.quiet {
            event.emit();
        }
        self.iter().for_each(|observer| observer.on_event(&event));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<dyn Observe>> {
        successors(self.list.get(), |node| node.next.get()).map(|node| &node.observer)
    }

    /// A list of its own with these observers.
    pub(crate) fn fork(&self) -> Self {
        let fork = Self::default();
        self.iter().for_each(|observer| fork.add(observer.clone()));
        fork
    }
}

/// Runs code that tells observers, while a call is dropped. Another panic would abort the process if the thread
/// is already panicking.
pub(crate) fn drop_panics(tell: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(tell)));
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observers")
    }
}
