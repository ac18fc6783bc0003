//! The clients of the three services: one pool of connections, one way to count and to fail.

mod error;
mod meter;
mod throttled;

use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{ProvideCredentials as _, SharedHttpClient};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::resources::POLL_MAX;
use super::settings::{Endpoints, Settings};
use crate::config::{from_env, is_blank_in_env, is_endpoint, is_region, without_login};
use meter::Meter;
use throttled::Throttled;

pub use error::{OpenError, Service, is_of_another, said};

#[derive(Clone, Debug)]
pub struct Clients {
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub sns: aws_sdk_sns::Client,
    pub sqs: aws_sdk_sqs::Client,
    /// For receiving alone: it waits as long as a poll may take, and leaves it to its caller to ask again.
    pub polling: aws_sdk_sqs::Client,
    pub region: String,
    /// Of each service, where it is not that of its region.
    endpoints: Endpoints,
}

impl Clients {
    /// Finds region and credentials. No service is called yet.
    ///
    /// # Errors
    /// Where there is no region, or are no credentials, or where a region or an endpoint that the environment has cannot be one.
    pub async fn connect(settings: &Settings) -> Result<Self, OpenError> {
        let config = loader(settings).load().await;
        let region =
            config.region().filter(|region| !region.as_ref().is_empty()).ok_or(OpenError::NoRegion)?.to_string();
        if !is_region(&region) {
            return Err(OpenError::BadRegion { region });
        }
        let endpoints = endpoints(settings, &config);
        let named =
            [(Service::DynamoDb, &endpoints.dynamodb), (Service::Sns, &endpoints.sns), (Service::Sqs, &endpoints.sqs)];
        for (service, url) in named {
            if let Some(url) = url.as_ref().filter(|url| !is_endpoint(url)) {
                return Err(OpenError::BadEndpoint { service, url: without_login(url) });
            }
        }
        let credentials = config.credentials_provider().ok_or_else(|| error::no_credentials(settings, None))?;
        if let Err(error) = credentials.provide_credentials().await {
            return Err(error::no_credentials(settings, Some(&error)));
        }
        let own = &settings.endpoints;
        let dynamodb = aws_sdk_dynamodb::config::Builder::from(&config);
        let sns = aws_sdk_sns::config::Builder::from(&config);
        let sqs = aws_sdk_sqs::config::Builder::from(&config).interceptor(Meter);
        let dynamodb = set(own.dynamodb.as_ref(), dynamodb, aws_sdk_dynamodb::config::Builder::endpoint_url);
        let sns = set(own.sns.as_ref(), sns, aws_sdk_sns::config::Builder::endpoint_url);
        let sqs = set(own.sqs.as_ref(), sqs, aws_sdk_sqs::config::Builder::endpoint_url);
        let polling = sqs.clone().retry_config(RetryConfig::disabled()).timeout_config(patient(settings));
        Ok(Self {
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.interceptor(Meter).build()),
            sns: aws_sdk_sns::Client::from_conf(sns.interceptor(Meter).retry_classifier(Throttled).build()),
            sqs: aws_sdk_sqs::Client::from_conf(sqs.build()),
            polling: aws_sdk_sqs::Client::from_conf(polling.build()),
            endpoints,
            region,
        })
    }

    /// Where calls of a service go: what a person needs to know who reads that they failed.
    fn place(&self, service: Service) -> String {
        let endpoint = match service {
            Service::Sns => &self.endpoints.sns,
            Service::Sqs => &self.endpoints.sqs,
            Service::DynamoDb => &self.endpoints.dynamodb,
        };
        match endpoint {
            Some(url) => format!("at {}", without_login(url)),
            None => format!("in {}", self.region),
        }
    }
}

fn loader(settings: &Settings) -> ConfigLoader {
    let retries = RetryConfig::standard().with_max_attempts(settings.attempts_max.get());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.attempt_timeout)
        .operation_timeout(settings.operation_timeout)
        .build();
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .app_name(AppName::new(env!("CARGO_PKG_NAME")).unwrap_or_else(|_| unreachable!("a crate's name is a name")))
        .http_client(http_client())
        .retry_config(retries)
        .timeout_config(timeouts);
    let loader = set(settings.profile.as_ref(), loader, ConfigLoader::profile_name);
    let loader = set(settings.region.as_ref(), loader, |loader, region: String| loader.region(Region::new(region)));
    set(settings.endpoints.all.as_ref(), loader, ConfigLoader::endpoint_url)
}

/// Sets what is there.
fn set<B>(value: Option<&String>, builder: B, set: impl FnOnce(B, String) -> B) -> B {
    match value {
        Some(value) => set(builder, value.clone()),
        None => builder,
    }
}

fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// A poll that finds nothing takes as long as it may, and is no call that hangs.
fn patient(settings: &Settings) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.attempt_timeout + POLL_MAX)
        .operation_timeout(settings.operation_timeout + POLL_MAX)
        .build()
}

/// The same order as the clients': a service's own setting, then the common one, then the environment.
fn endpoints(settings: &Settings, config: &SdkConfig) -> Endpoints {
    let own = &settings.endpoints;
    let of = |service: &Option<String>, variable: &str| {
        let from_environment = || match from_env(variable) {
            // The SDK takes that for a URL, and panics.
            None if is_blank_in_env(variable) => Some(String::new()),
            None if is_blank_in_env("AWS_ENDPOINT_URL") => Some(config.endpoint_url().unwrap_or_default().to_owned()),
            url => url.or_else(|| config.endpoint_url().map(str::to_owned)),
        };
        service.clone().or_else(|| own.all.clone()).or_else(from_environment)
    };
    Endpoints {
        all: None,
        sns: of(&own.sns, "AWS_ENDPOINT_URL_SNS"),
        sqs: of(&own.sqs, "AWS_ENDPOINT_URL_SQS"),
        dynamodb: of(&own.dynamodb, "AWS_ENDPOINT_URL_DYNAMODB"),
    }
}
