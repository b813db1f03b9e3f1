//! Several quotas at once.

mod core;
mod handle;
mod layer;
mod slack;

pub use handle::{Charge, Place, Quotas, QuotasBuilder, QuotasSnapshot};
pub use layer::{Charged, MeteredBy, QuotasLayer, QuotasService, RealCosts};
