//! The way from one host to AWS: a proxy before each emulator.

use std::sync::{Arc, Mutex};

use super::{Bill, Call, Fault, FaultProxy, endpoint};
use crate::TestHost;

const SERVICES: [&str; 3] = ["DYNAMODB", "SNS", "SQS"];

pub struct Way {
    pub dynamodb: FaultProxy,
    pub sns: FaultProxy,
    pub sqs: FaultProxy,
}

impl Way {
    /// Between `host`, from its next start on, and the emulators. Everything passes until it is told otherwise.
    pub fn of(host: &mut TestHost) -> Self {
        let [dynamodb, sns, sqs] = SERVICES.map(|service| {
            let proxy = FaultProxy::before(&endpoint(service));
            host.variable(&format!("AWS_ENDPOINT_URL_{service}"), &proxy.url());
            proxy
        });
        Self { dynamodb, sns, sqs }
    }

    /// The same for every request to any service from now on.
    pub fn tell(&self, fault: &Fault) {
        self.all().for_each(|proxy| proxy.tell(fault.clone()));
    }

    /// Asks `choose` about every request to any service from now on, one after another.
    pub fn choose(&self, choose: impl FnMut(&Call) -> Fault + Send + 'static) {
        let choose = Arc::new(Mutex::new(choose));
        for proxy in self.all() {
            let choose = Arc::clone(&choose);
            proxy.choose(move |call| (choose.lock().expect("a sound choice"))(call));
        }
    }

    /// Ends every connection that is open.
    pub fn cut(&self) {
        self.all().for_each(FaultProxy::cut);
    }

    /// What was asked of all services.
    #[must_use]
    pub fn bill(&self) -> Bill {
        let mut all = Bill::default();
        for Bill(bill) in self.all().map(FaultProxy::bill) {
            all.0.extend(bill);
        }
        all
    }

    fn all(&self) -> impl Iterator<Item = &FaultProxy> {
        [&self.dynamodb, &self.sns, &self.sqs].into_iter()
    }
}
