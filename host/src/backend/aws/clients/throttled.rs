//! Takes status 429 for what it says. SNS tells so, under a code that the SDK does not know for one that passes.

use aws_sdk_sns::config::retry::{ClassifyRetry, RetryAction};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

const TOO_MANY_REQUESTS: u16 = 429;

#[derive(Debug)]
pub struct Throttled;

impl ClassifyRetry for Throttled {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|response| response.status().as_u16()) {
            Some(TOO_MANY_REQUESTS) => RetryAction::throttling_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Throttled"
    }
}
