use super::classify::StatusClassifier;
use super::code::Code;
use super::methods::Methods;
use super::service;
use super::tag::{RetryRules, Tag};
use crate::budget::Budget;
use crate::deadline::{Carrier, Deadline};
use crate::error::InvalidConfig;
use crate::http::{InExtensions, StackBuilder};
use crate::replay::Replay;
use crate::time::nanos;
use crate::verdict::{Sent, Verdict};
use http::Request;
use parse::Field;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Layer, Service};

mod parse;

/// The longest text of a service config, in bytes.
const LONGEST: usize = 1 << 20;

/// The retry settings of a gRPC service config (gRFC A6), as its owner publishes them for all clients.
/// Needs the feature `grpc-config`.
///
/// Build the stack from it, and put it around the service as a layer:
///
/// ```
/// use buttress::grpc::{self, ServiceConfig};
/// use tower::Layer;
/// # struct OrdersClient; // stands for the generated code
/// # impl OrdersClient {
/// #     fn new<T: tonic::client::GrpcService<tonic::body::Body>>(_: T) -> Self { Self }
/// # }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let config = ServiceConfig::from_json(
///     r#"{
///         "methodConfig": [{
///             "name": [{"service": "orders.Orders", "method": "Get"}],
///             "timeout": "3s",
///             "retryPolicy": {
///                 "maxAttempts": 4,
///                 "initialBackoff": "0.1s",
///                 "maxBackoff": "1s",
///                 "backoffMultiplier": 2,
///                 "retryableStatusCodes": ["UNAVAILABLE"]
///             }
///         }],
///         "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
///     }"#,
/// )?;
/// let stack = config.stack().name("orders").build()?;
/// let channel = tonic::transport::Endpoint::from_static("http://orders.internal:50051").connect_lazy();
/// let channel = config.layer(grpc::service(&stack, channel, tonic::body::Body::new));
/// let orders = OrdersClient::new(channel);
/// # let _ = orders;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// # }).unwrap();
/// ```
///
/// | field | what it does |
/// |---|---|
/// | `name` | the methods: one, all of a service, or all (`{}`). A method's own entry counts first, then that of its service |
/// | `timeout` | the time of the whole call, with its retries. If the call carries an earlier deadline, that one counts |
/// | `maxAttempts` | at most 5; more counts as 5 |
/// | `initialBackoff`, `maxBackoff`, `backoffMultiplier` | the wait before the n-th retry: min(initial · multiplierⁿ⁻¹, max), times a random number between 0.8 and 1.2 |
/// | `retryableStatusCodes` | only these are retried, whatever [`StatusClassifier::retryable`] says. A call that has no response counts as `UNAVAILABLE` |
/// | `retryThrottling` | the [budget](Budget::grpc) of all methods that have a `retryPolicy`. Without it, they draw on the stack's own budget |
///
/// Throttling differs from that of gRPC's own clients in two ways. An attempt with a healthy code, such as
/// `NOT_FOUND`, earns as `OK` does. A failure takes no token if its pushback forbids the retry.
///
/// A method without a `retryPolicy` is sent again only if the upstream certainly did not process it.
/// `hedgingPolicy` is not supported, and is an error. Other fields have no effect.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// By `/service/method`, `/service/`, or nothing.
    methods: HashMap<String, Arc<Rules>>,
    longest_timeout: Duration,
}

#[derive(Debug)]
struct Rules {
    timeout: Option<Duration>,
    retry: Option<Arc<RetryRules>>,
}

impl ServiceConfig {
    /// Reads a service config in JSON.
    ///
    /// # Errors
    /// The text is longer than 1 MiB, is not JSON, or is nested deeper than 127 levels; a field has a value that
    /// gRFC A6 does not allow; two entries have the same name; there is a `hedgingPolicy`.
    /// [`field`](InvalidConfig::field) is the path, such as `methodConfig[0].retryPolicy.maxAttempts`.
    pub fn from_json(text: &str) -> Result<Self, InvalidConfig> {
        if text.len() > LONGEST {
            let length = format_args!("{} bytes", text.len()).to_string();
            return Err(parse::invalid("service config", &length, "at most 1 MiB"));
        }
        let config = parse::object(text)?;
        let config = Field::root(&config)?;
        let budget = config
            .get("retryThrottling")
            .as_ref()
            .map(throttling)
            .transpose()?;
        let mut methods = HashMap::new();
        let mut longest_timeout = Duration::ZERO;
        for entry in config.items("methodConfig")? {
            if let Some(hedging) = entry.get("hedgingPolicy") {
                return Err(hedging.invalid("left out (hedging is not supported)"));
            }
            let timeout = entry.get("timeout").map(|field| field.duration());
            let retry = entry.get("retryPolicy");
            let retry = retry.map(|policy| retry_rules(&policy, budget.clone()));
            let rules = Arc::new(Rules {
                timeout: timeout.transpose()?,
                retry: retry.transpose()?.map(Arc::new),
            });
            longest_timeout = longest_timeout.max(rules.timeout.unwrap_or_default());
            for name in entry.items("name")? {
                if methods.insert(path(&name)?, rules.clone()).is_some() {
                    return Err(name.invalid("the only entry of its name"));
                }
            }
        }
        let shared = Shared {
            methods,
            longest_timeout,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The [recommended stack](super::stack), with the retries of this config. Also put the config around the
    /// service as a layer; without it, the config has no effect.
    ///
    /// The deadline of the stack, also of methods without a `timeout`, is the longest `timeout` of the config, and
    /// at least 10 s. There is no timeout for an attempt, as in gRPC. Set both on the stack to change them.
    #[must_use = "a builder does nothing until `build` is called"]
    pub fn stack(&self) -> StackBuilder<StatusClassifier, ByConfig> {
        service::stack()
            .deadline(self.shared.longest_timeout.max(service::DEADLINE))
            .attempt_timeout(Duration::MAX)
            .replay(ByConfig(()))
    }

    fn rules(&self, path: &str) -> Option<&Arc<Rules>> {
        let methods = &self.shared.methods;
        let service = path.rfind('/').map(|slash| &path[..=slash]);
        let of_service = || service.and_then(|service| methods.get(service));
        let of_method = methods.get(path);
        of_method.or_else(of_service).or_else(|| methods.get(""))
    }
}

fn path(name: &Field<'_>) -> Result<String, InvalidConfig> {
    let text = |key| {
        let field = name.get(key);
        field.map_or(Ok(""), |field| field.text())
    };
    Ok(match (text("service")?, text("method")?) {
        ("", "") => String::new(),
        ("", _) => return Err(name.invalid("an entry with a service")),
        (service, method) => format!("/{service}/{method}"),
    })
}

fn throttling(field: &Field<'_>) -> Result<Budget, InvalidConfig> {
    let max_tokens = field.required("maxTokens")?;
    let Some(tokens @ 1..=1_000) = max_tokens.integer() else {
        return Err(max_tokens.invalid("an integer from 1 to 1000"));
    };
    let ratio = field.required("tokenRatio")?;
    let budget = ratio
        .number()
        .and_then(|value| Budget::grpc(tokens as u32, value).ok());
    budget.ok_or_else(|| ratio.invalid("a number of at least 0.001"))
}

fn retry_rules(policy: &Field<'_>, budget: Option<Budget>) -> Result<RetryRules, InvalidConfig> {
    const MOST_ATTEMPTS: u64 = 5;
    let max_attempts = policy.required("maxAttempts")?;
    let attempts = max_attempts.integer().filter(|attempts| *attempts > 1);
    let attempts = attempts.ok_or_else(|| max_attempts.invalid("an integer of at least 2"))?;
    let positive = |key| {
        let field = policy.required(key)?;
        let duration = field.duration()?;
        let allowed = || field.invalid("more than 0 s");
        (!duration.is_zero())
            .then_some(duration)
            .ok_or_else(allowed)
    };
    let multiplier = policy.required("backoffMultiplier")?;
    let positive_number = |value: &f64| *value > 0.0 && value.is_finite();
    let codes = policy.required("retryableStatusCodes")?;
    let list = codes.list()?;
    if list.is_empty() {
        return Err(codes.invalid("a list of at least one code"));
    }
    let code = |field: &Field<'_>| {
        let code = field.code().filter(|code| *code != Code::Ok);
        code.ok_or_else(|| field.invalid("a code of a failure, by its name or as 1 to 16"))
    };
    Ok(RetryRules {
        attempts: attempts.min(MOST_ATTEMPTS) as u32,
        initial: positive("initialBackoff")?,
        max: positive("maxBackoff")?,
        multiplier: multiplier
            .number()
            .filter(positive_number)
            .ok_or_else(|| multiplier.invalid("a number above 0"))?,
        codes: list.iter().map(code).collect::<Result<_, _>>()?,
        budget,
    })
}

/// Puts the config around a service that [`grpc::service`](super::service) made with the stack of
/// [`ServiceConfig::stack`].
impl<S> Layer<S> for ServiceConfig {
    type Service = Configured<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Configured {
            inner,
            config: self.clone(),
        }
    }
}

/// The service that [`ServiceConfig`] makes, as a layer.
#[derive(Clone, Debug)]
pub struct Configured<S> {
    inner: S,
    config: ServiceConfig,
}

impl<S, B> Service<Request<B>> for Configured<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> Self::Future {
        if let Some(rules) = self.config.rules(req.uri().path()) {
            if let Some(timeout) = rules.timeout {
                let own = Deadline::after(timeout);
                let carried = InExtensions.get(&req);
                InExtensions.set(&mut req, carried.map_or(own, |carried| carried.min(own)));
            }
            if let Some(retry) = &rules.retry {
                req.extensions_mut().insert(Tag::new(retry.clone()));
            }
        }
        self.inner.call(req)
    }
}

/// Which calls may be sent again, and when, by a [`ServiceConfig`]. [`ServiceConfig::stack`] sets it.
#[derive(Clone, Copy, Debug)]
pub struct ByConfig(());

/// The rules of a call. `None` without a `retryPolicy`.
fn rules<B>(call: &Request<B>) -> Option<&RetryRules> {
    call.extensions().get::<Tag>().map(|tag| &*tag.rules)
}

impl<B: Clone> Replay<Request<B>> for ByConfig {
    fn replay(&self, call: &Request<B>) -> Option<Request<B>> {
        rules(call).map(|_| call.clone())
    }

    fn keep(&self, call: &Request<B>) -> Option<Request<B>> {
        Some(call.clone())
    }

    fn may_resend(&self, copy: &Request<B>, verdict: Verdict) -> bool {
        let tag: Option<&Tag> = copy.extensions().get();
        match verdict {
            Verdict::Throttled { .. } => tag.is_some_and(|tag| tag.lists(Code::ResourceExhausted)),
            _ => verdict.sent() == Sent::No || tag.is_some_and(Tag::may_repeat),
        }
    }

    fn budget<'a>(&self, copy: &'a Request<B>) -> Option<&'a Budget> {
        rules(copy)?.budget.as_ref()
    }

    fn attempts(&self, copy: &Request<B>) -> Option<u32> {
        Some(rules(copy)?.attempts)
    }

    fn backoff(&self, copy: &Request<B>, retry: u32, draw: f64) -> Option<Duration> {
        Some(backoff(rules(copy)?, retry, draw))
    }

    fn deadline(&self, call: &Request<B>) -> Option<Deadline> {
        Methods::new().deadline(call)
    }

    fn replayable(&self, copy: &Request<B>) -> bool {
        Methods::new().replayable(copy)
    }

    fn resend(&self, copy: &mut Request<B>, attempt: u32) {
        Methods::new().resend(copy, attempt);
    }
}

/// gRFC A6: the n-th wait is min(initial · multiplierⁿ⁻¹, max), times a random number from 0.8 to 1.2.
fn backoff(rules: &RetryRules, retry: u32, draw: f64) -> Duration {
    let times = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
    let wait = nanos(rules.initial) as f64 * rules.multiplier.powi(times);
    let wait = wait.min(nanos(rules.max) as f64);
    Duration::from_nanos((wait * (0.8 + 0.4 * draw)) as u64)
}
