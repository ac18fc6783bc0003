//! Counts every call. The clients trace each one by themselves, in a span `SQS.ReceiveMessage` at level debug.

use std::time::Instant;

use aws_sdk_dynamodb::config::interceptors::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::telemetry::meters::{self, AwsOutcome};

#[derive(Debug)]
pub struct Meter;

/// One call under way.
#[derive(Debug)]
struct Call {
    began: Instant,
    requests: u32,
}

impl Storable for Call {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state().store_put(Call { began: Instant::now(), requests: 0 });
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(call) = cfg.get_mut_from_interceptor_state::<Call>() {
            call.requests += 1;
        }
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (Some(call), Some(of)) = (cfg.load::<Call>(), cfg.load::<Metadata>()) else { return Ok(()) };
        let outcome = match context.output_or_error() {
            Some(Ok(_)) => AwsOutcome::Done,
            Some(Err(error)) if error.is_operation_error() => AwsOutcome::Refused,
            Some(Err(_)) | None => AwsOutcome::Failed,
        };
        meters::aws_call(of.service(), of.name(), outcome, call.requests, call.began.elapsed());
        Ok(())
    }
}
