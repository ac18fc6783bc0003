//! The store on SNS, SQS and DynamoDB.

pub mod clients;
pub mod resources;
pub mod settings;

pub use clients::{Clients, OpenError};
pub use settings::{Endpoints, NotAPrefix, Prefix, Settings, TopicKind};
