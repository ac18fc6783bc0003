//! Against emulators: what is made, what is found wrong, and how it is mended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::backend::aws::clients::OpenError;
use crate::config::from_env;
use crate::event::KindPattern;
use crate::telemetry::meters;

/// A shop of its own on the emulators, gone at the end.
struct Shop {
    settings: Settings,
    clients: Clients,
}

impl Shop {
    async fn open() -> Self {
        let variables = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_SQS"];
        for variable in variables.iter().chain(&["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) {
            assert!(
                from_env(variable).is_some(),
                "{variable} is not set: `cargo xtask test` starts emulators and sets it; for a single test start them \
                 by hand and set {variables:?} to where they listen, a region and any key"
            );
        }
        let prefix = format!("test-{}", uuid::Uuid::now_v7().simple()).parse().unwrap();
        let settings = Settings { prefix, provision: true, ..Settings::default() };
        let clients = Clients::connect(&settings).await.unwrap();
        Self { settings, clients }
    }

    /// The same, and nothing may be changed.
    fn looking(&self) -> Settings {
        Settings { provision: false, ..self.settings.clone() }
    }

    async fn ensure(&self) -> Shared {
        ensure(&self.clients, &self.settings).await.unwrap()
    }

    async fn ensure_consumer(&self, shared: &Shared, name: &str, kinds: &[&str]) -> Queue {
        ensure_consumer(&self.clients, &self.settings, shared, &consumer(name), Some(&hears(kinds))).await.unwrap()
    }

    /// What a host that may not change anything says, with the shop called SHOP and ARNs cut short.
    async fn missing(&self, name: &str, kinds: &[&str]) -> String {
        let looking = self.looking();
        let mut lines = Vec::new();
        let shared = match ensure(&self.clients, &looking).await {
            Ok(shared) => shared,
            Err(Error::Missing { plan, .. }) => {
                lines.push(plan.to_string());
                let mended = ensure(&self.clients, &self.settings).await.unwrap();
                assert!(ensure(&self.clients, &looking).await.is_ok(), "what was mended is not missing");
                mended
            }
            Err(other) => panic!("{other}"),
        };
        match ensure_consumer(&self.clients, &looking, &shared, &consumer(name), Some(&hears(kinds))).await {
            Ok(_) => {}
            Err(Error::Missing { plan, .. }) => lines.push(plan.to_string()),
            Err(other) => panic!("{other}"),
        }
        let text = lines.join("\n").replace(self.settings.prefix.as_str(), "SHOP");
        ["dynamodb", "sns", "sqs"].iter().fold(text, |text, service| {
            text.replace(&format!("arn:aws:{service}:{}:000000000000:", self.clients.region), "ARN:")
        })
    }

    async fn close(self, consumers: &[&str]) {
        let Self { settings, clients } = self;
        if let Ok(shared) = ensure(&clients, &settings).await {
            for name in consumers {
                remove_consumer(&clients, &settings, &shared, &consumer(name)).await.unwrap();
            }
            clients.sns.delete_topic().topic_arn(shared.topic_arn).send().await.unwrap();
        }
        clients.dynamodb.delete_table().table_name(settings.prefix.as_str()).send().await.unwrap();
    }
}

fn consumer(name: &str) -> ConsumerName {
    name.parse().unwrap()
}

fn hears(kinds: &[&str]) -> Subscriptions {
    kinds.iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect()
}

#[tokio::test]
async fn what_was_made_once_is_as_it_should_be_ever_after() {
    let shop = Shop::open().await;
    let consumers = [(consumer("inventory"), Some(hears(&["order.*"]))), (consumer("analytics"), None)];
    let before = plan(&shop.clients, &shop.settings, &consumers).await.unwrap();
    assert_eq!(before.steps.len(), 2 + 2 * 3, "{before}");
    assert!(before.is_needed());

    let shared = shop.ensure().await;
    let queue = shop.ensure_consumer(&shared, "inventory", &["order.*"]).await;
    provision(&shop.clients, &shop.settings, &consumers).await.unwrap();
    let after = plan(&shop.clients, &shop.settings, &consumers).await.unwrap();
    assert!(after.is_empty(), "{after}");

    let looking = shop.looking();
    let found = ensure(&shop.clients, &looking).await.unwrap();
    assert_eq!((found.table, found.topic_arn), (shared.table.clone(), shared.topic_arn.clone()));
    let heard = hears(&["order.*"]);
    for heard in [Some(&heard), None] {
        let again = ensure_consumer(&shop.clients, &looking, &shared, &consumer("inventory"), heard).await;
        assert_eq!(
            again.unwrap().url,
            queue.url,
            "a filter that is there is enough for one that did not say what it hears"
        );
    }
    let shown = meters::render(Some(&[]));
    for operation in ["service=\"SQS\",operation=\"CreateQueue\"", "service=\"DynamoDB\",operation=\"CreateTable\""] {
        let line = format!("fanfare_aws_calls_total{{{operation},outcome=\"done\"}}");
        assert!(shown.contains(&line), "{line} is not in {shown}");
    }
    shop.close(&["inventory", "analytics"]).await;
}

#[tokio::test]
async fn an_event_reaches_the_queue_of_who_hears_its_kind() {
    let shop = Shop::open().await;
    let shared = shop.ensure().await;
    let placed = shop.ensure_consumer(&shared, "inventory", &["order.placed"]).await;
    let all = shop.ensure_consumer(&shared, "analytics", &["order.*"]).await;
    for (number, kind) in ["order.shipped", "order.placed"].into_iter().enumerate() {
        let kind_attribute = aws_sdk_sns::types::MessageAttributeValue::builder();
        let kind_attribute = kind_attribute.data_type("String").string_value(kind).build().unwrap();
        let publish = shop.clients.sns.publish().topic_arn(&shared.topic_arn).message(kind);
        let publish = publish.message_attributes(names::KIND_ATTRIBUTE, kind_attribute);
        publish.message_group_id("lane").message_deduplication_id(number.to_string()).send().await.unwrap();
    }
    let receive = async |queue: &Queue| loop {
        let got = shop.clients.polling.receive_message().queue_url(&queue.url).send().await.unwrap();
        if let Some(message) = got.messages().first() {
            return message.body().unwrap_or_default().to_owned();
        }
    };
    assert_eq!(receive(&all).await, "order.shipped");
    assert_eq!(receive(&placed).await, "order.placed", "another kind was not let through before it");
    shop.close(&["inventory", "analytics"]).await;
}

#[tokio::test]
async fn everything_that_differs_is_told_and_mended() {
    let shop = Shop::open().await;
    let shared = shop.ensure().await;
    let Queue { url, subscription_arn, .. } = shop.ensure_consumer(&shared, "inventory", &["order.*"]).await;
    let Clients { sns, sqs, .. } = &shop.clients;

    table::spoil(&shop.clients, &shared.table).await;
    let set = sns.set_topic_attributes().topic_arn(&shared.topic_arn);
    set.attribute_name("ContentBasedDeduplication").attribute_value("true").send().await.unwrap();
    let wider = queue::policy("*", &shared.topic_arn).to_string();
    let set = sqs.set_queue_attributes().queue_url(&url).attributes(QueueAttributeName::Policy, wider);
    let set =
        set.attributes(QueueAttributeName::RedrivePolicy, "").attributes(QueueAttributeName::VisibilityTimeout, "5");
    let set = set.attributes(QueueAttributeName::DelaySeconds, "30");
    let set = set.attributes(QueueAttributeName::MaximumMessageSize, "1024");
    let set = set.attributes(QueueAttributeName::ReceiveMessageWaitTimeSeconds, "0");
    set.attributes(QueueAttributeName::MessageRetentionPeriod, "60").send().await.unwrap();
    for (name, value) in [("FilterPolicy", "{\"kind\":[\"order.placed\"]}"), ("RawMessageDelivery", "false")] {
        let set = sns.set_subscription_attributes().subscription_arn(&subscription_arn);
        set.attribute_name(name).attribute_value(value).send().await.unwrap();
    }

    insta::assert_snapshot!(shop.missing("inventory", &["order.*"]).await, @r#"
    create index log of table SHOP: key = lp (S) + ls (N), KEYS_ONLY
    replace index customer of table SHOP: it is cp (S) + cs (N), ALL, and should be cp (S) + cs (S), KEYS_ONLY
    set time to live of table SHOP to ttl: it is not set
    set ContentBasedDeduplication of topic SHOP.fifo to false: it is true
    set MessageRetentionPeriod of queue SHOP-inventory.fifo to 1209600: it is 60
    set ReceiveMessageWaitTimeSeconds of queue SHOP-inventory.fifo to 20: it is 0
    set VisibilityTimeout of queue SHOP-inventory.fifo to 60: it is 5
    set DelaySeconds of queue SHOP-inventory.fifo to 0: it is 30
    set MaximumMessageSize of queue SHOP-inventory.fifo to 262144: it is 1024
    set Policy of queue SHOP-inventory.fifo to {"Statement":[{"Action":"sqs:SendMessage","Condition":{"ArnEquals":{"aws:SourceArn":"ARN:SHOP.fifo"}},"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Resource":"ARN:SHOP-inventory.fifo","Sid":"Topic"}],"Version":"2012-10-17"}: it is {"Statement":[{"Action":"sqs:SendMessage","Condition":{"ArnEquals":{"aws:SourceArn":"ARN:SHOP.fifo"}},"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Resource":"*","Sid":"Topic"}],"Version":"2012-10-17"}
    set RedrivePolicy of queue SHOP-inventory.fifo to {"deadLetterTargetArn":"ARN:SHOP-inventory-dead.fifo","maxReceiveCount":1000}: it is not set
    set RawMessageDelivery of subscription of queue SHOP-inventory.fifo to topic SHOP.fifo to true: it is false
    set FilterPolicy of subscription of queue SHOP-inventory.fifo to topic SHOP.fifo to {"kind":[{"prefix":"order."}]}: it is {"kind":["order.placed"]}
    "#);
    let queue = shop.ensure_consumer(&shared, "inventory", &["order.*"]).await;
    assert_eq!(queue.url, url);
    assert_eq!(shop.missing("inventory", &["order.*"]).await, "");

    // No emulator asks the policy: it must be the one that AWS would ask.
    let get =
        sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::Policy).send().await.unwrap();
    let policy: Value = serde_json::from_str(&get.attributes().unwrap()[&QueueAttributeName::Policy]).unwrap();
    assert_eq!(policy, queue::policy(&queue.arn, &shared.topic_arn));
    shop.close(&["inventory"]).await;
}

#[tokio::test]
async fn what_somebody_set_of_a_queue_for_dead_letters_is_told_and_mended() {
    let shop = Shop::open().await;
    let shared = shop.ensure().await;
    shop.ensure_consumer(&shared, "inventory", &["*"]).await;
    let consumers = [(consumer("inventory"), Some(hears(&["*"])))];
    let [_, dead] = names::queues(&shop.settings.prefix, &consumer("inventory"), shop.settings.topic);
    let dead = queue::look(&shop.clients, &dead, false).await.unwrap().unwrap();
    let set = shop.clients.sqs.set_queue_attributes().queue_url(&dead.url);
    let wide = queue::policy(&dead.arn, &shared.topic_arn).to_string();
    let set = set.attributes(QueueAttributeName::Policy, wide).attributes(QueueAttributeName::DelaySeconds, "30");
    set.attributes(QueueAttributeName::MessageRetentionPeriod, "60").send().await.unwrap();

    let told = plan(&shop.clients, &shop.settings, &consumers).await.unwrap();
    let told = told.steps.iter().map(|step| {
        let line = step.to_string();
        let told = line.split_once(" of queue ").map_or(&*line, |(told, _)| told);
        format!("{told}{}", if step.needed { ", needed" } else { "" })
    });
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        ["set MessageRetentionPeriod, needed", "set DelaySeconds"],
        "who may read it is the operator's to say"
    );
    provision(&shop.clients, &shop.settings, &consumers).await.unwrap();
    let after = plan(&shop.clients, &shop.settings, &consumers).await.unwrap();
    assert!(after.is_empty(), "{after}");
    shop.close(&["inventory"]).await;
}

#[tokio::test]
async fn what_is_not_there_is_told_whole() {
    let shop = Shop::open().await;
    let Err(error @ Error::Missing { .. }) = ensure(&shop.clients, &shop.looking()).await else {
        panic!("nothing is there")
    };
    let error = error.to_string().replace(shop.settings.prefix.as_str(), "SHOP");
    insta::assert_snapshot!(error, @r"
    not everything at AWS is in eu-central-1 as this host needs it:
    create table SHOP: key = pk (S) + sk (S), log = lp (S) + ls (N), KEYS_ONLY, customer = cp (S) + cs (S), KEYS_ONLY, time to live = ttl
    create topic SHOP.fifo: FifoTopic = true, ContentBasedDeduplication = false, FifoThroughputScope = MessageGroup
    Run `fanfare provision`, let hosts do it with aws.provision = true (FANFARE_AWS_PROVISION), or do it by hand, as deploy/cloudformation.yaml does
    ");
    let shared = shop.ensure().await;
    insta::assert_snapshot!(shop.missing("inventory", &["order.placed"]).await, @r#"
    create queue SHOP-inventory-dead.fifo: MessageRetentionPeriod = 1209600, FifoQueue = true, ContentBasedDeduplication = false, DeduplicationScope = messageGroup, FifoThroughputLimit = perMessageGroupId
    create queue SHOP-inventory.fifo: MessageRetentionPeriod = 1209600, ReceiveMessageWaitTimeSeconds = 20, VisibilityTimeout = 60, FifoQueue = true, ContentBasedDeduplication = false, DeduplicationScope = messageGroup, FifoThroughputLimit = perMessageGroupId, Policy = the topic alone may send, RedrivePolicy = to its dead-letter queue after 1000 times
    create subscription of queue SHOP-inventory.fifo to topic SHOP.fifo: RawMessageDelivery = true, FilterPolicyScope = MessageAttributes, FilterPolicy = {"kind":["order.placed"]}
    "#);
    let standard = Settings { topic: TopicKind::Standard, ..shop.settings.clone() };
    let shared_too = ensure(&shop.clients, &standard).await.unwrap();
    assert_ne!(shared.topic_arn, shared_too.topic_arn);
    ensure_consumer(&shop.clients, &standard, &shared_too, &consumer("inventory"), Some(&hears(&["*"]))).await.unwrap();
    remove_consumer(&shop.clients, &standard, &shared_too, &consumer("inventory")).await.unwrap();
    shop.clients.sns.delete_topic().topic_arn(shared_too.topic_arn).send().await.unwrap();
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_filter_that_keeps_something_back_is_wrong_and_a_wider_one_is_not() {
    let shop = Shop::open().await;
    let shared = shop.ensure().await;
    let queue = shop.ensure_consumer(&shared, "inventory", &["order.placed"]).await;
    let (name, looking) = (consumer("inventory"), shop.looking());
    let both = hears(&["order.placed", "order.cancelled"]);
    let refused = narrow(&shop.clients, &looking, &name, &queue.subscription_arn, &both).await;
    assert!(matches!(&refused, Err(Error::Missing { plan, .. }) if plan.steps.len() == 1), "{refused:?}");
    narrow(&shop.clients, &shop.settings, &name, &queue.subscription_arn, &both).await.unwrap();
    assert_eq!(shop.missing("inventory", &["order.placed", "order.cancelled"]).await, "");
    assert_eq!(shop.missing("inventory", &["order.placed"]).await, "", "wider is as good");

    narrow(&shop.clients, &shop.settings, &name, &queue.subscription_arn, &hears(&["*"])).await.unwrap();
    assert_eq!(shop.missing("inventory", &["*"]).await, "", "no filter is wanted and none is left");
    narrow(&shop.clients, &shop.settings, &name, &queue.subscription_arn, &hears(&["order.placed"])).await.unwrap();
    let found = subscription::look_at(&shop.clients, &queue.subscription_arn).await.unwrap();
    let on = consumer::subscription(&shop.settings, &name);
    assert_eq!(subscription::compare(&on, &Some(&hears(&["order.placed"])).into(), found.as_ref()), []);
    shop.close(&["inventory"]).await;
}

#[tokio::test]
async fn many_hosts_make_everything_once() {
    let shop = Arc::new(Shop::open().await);
    let hosts = (0..8).map(|_| {
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            let shared = shop.ensure().await;
            (shop.ensure_consumer(&shared, "inventory", &["order.*"]).await, shared)
        })
    });
    let mut found = Vec::new();
    for host in futures::future::join_all(hosts).await {
        let (queue, shared) = host.unwrap();
        found.push((queue.url, queue.dead_url, queue.subscription_arn, shared.topic_arn));
    }
    found.dedup();
    let [(.., topic_arn)] = found.as_slice() else { panic!("{found:?}") };
    let listed = shop.clients.sns.list_subscriptions_by_topic().topic_arn(topic_arn).send().await.unwrap();
    assert_eq!(listed.subscriptions().len(), 1);
    Arc::into_inner(shop).unwrap().close(&["inventory"]).await;
}

#[tokio::test]
async fn a_forgotten_consumer_leaves_nothing_behind() {
    let shop = Shop::open().await;
    let shared = shop.ensure().await;
    shop.ensure_consumer(&shared, "inventory", &["order.*"]).await;
    let (name, looking) = (consumer("inventory"), shop.looking());
    let left = remove_consumer(&shop.clients, &looking, &shared, &name).await.unwrap();
    insta::assert_snapshot!(left.to_string().replace(shop.settings.prefix.as_str(), "SHOP"), @r"
    delete subscription of queue SHOP-inventory.fifo to topic SHOP.fifo
    delete queue SHOP-inventory.fifo
    delete queue SHOP-inventory-dead.fifo
    ");
    for _ in 0..2 {
        let left = remove_consumer(&shop.clients, &shop.settings, &shared, &name).await.unwrap();
        assert!(left.is_empty(), "{left}");
    }
    let site = ConsumerSite::new(&shop.clients, &shop.settings, Some(&shared.topic_arn), &name, Passing::Unknown, true);
    let found = site.look().await.unwrap();
    assert!(found.queue.is_none() && found.dead.is_none() && found.subscription.is_none());
    shop.close(&[]).await;
}

#[tokio::test]
async fn what_is_somebody_elses_is_left_alone() {
    let shop = Shop::open().await;
    let part = |kind| KeySchemaElement::builder().attribute_name("id").key_type(kind).build().unwrap();
    let definition = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S).build();
    let create = shop.clients.dynamodb.create_table().table_name(shop.settings.prefix.as_str());
    let create = create.key_schema(part(KeyType::Hash)).attribute_definitions(definition.unwrap());
    create.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
    let error = ensure(&shop.clients, &shop.settings).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unmendable { what } if what.contains("the key id (S), not pk (S) + sk (S)")),
        "{error}"
    );
    shop.clients.dynamodb.delete_table().table_name(shop.settings.prefix.as_str()).send().await.unwrap();

    let shared = shop.ensure().await;
    let queue = shop.ensure_consumer(&shared, "inventory", &["order.*"]).await;
    shop.clients.sqs.tag_queue().queue_url(&queue.url).tags(names::PREFIX_TAG, "another").send().await.unwrap();
    let error =
        ensure_consumer(&shop.clients, &shop.settings, &shared, &consumer("inventory"), Some(&hears(&["*"]))).await;
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::Unmendable { what } if what.contains("fanfare:prefix = another")), "{error}");
    // Nor does it go with a consumer that only has the name for it.
    remove_consumer(&shop.clients, &shop.settings, &shared, &consumer("inventory")).await.unwrap();
    let [name, _] = names::queues(&shop.settings.prefix, &consumer("inventory"), shared.kind);
    let there = queue::look(&shop.clients, &name, true).await.unwrap();
    assert!(there.is_some(), "another shop's queue stays");
    // Nor is anybody told to delete it.
    let left = remove_consumer(&shop.clients, &shop.looking(), &shared, &consumer("inventory")).await.unwrap();
    assert!(!left.to_string().contains("inventory.fifo"), "{left}");
    let own = shop.settings.prefix.as_str();
    shop.clients.sqs.tag_queue().queue_url(&queue.url).tags(names::PREFIX_TAG, own).send().await.unwrap();
    shop.close(&["inventory"]).await;
}

/// LocalStack takes any number: here the service is a text.
#[tokio::test]
async fn the_101st_consumer_is_told_so() {
    let shop = Shop::open().await;
    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>SubscriptionLimitExceeded</Code>\
                   <Message>Subscription quota exceeded</Message></Error></ErrorResponse>";
    let clients = refusing(&shop, "403 Forbidden", refusal).await;
    let error = subscription::create(&clients, "arn:topic", "arn:queue", &Passing::Unknown).await.unwrap_err();
    assert!(matches!(&error, Error::TooManyConsumers { topic } if topic == "arn:topic"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_reached_or_is_refused_says_where_and_what_to_do() {
    let shop = Shop::open().await;
    let mut settings = Settings { attempts_max: const { std::num::NonZeroU32::new(1).unwrap() }, ..shop.looking() };
    // Nothing listens on port 1.
    settings.endpoints.dynamodb = Some("http://127.0.0.1:1".to_owned());
    let clients = Clients::connect(&settings).await.unwrap();
    let error = ensure(&clients, &settings).await.unwrap_err();
    assert!(matches!(error, Error::Open(OpenError::Unreachable { .. })), "{error:?}");
    let error = error.to_string();
    assert!(error.starts_with("DynamoDB at http://127.0.0.1:1 cannot be reached: "), "{error}");
    assert!(error.contains("refused") && error.contains("Check the network and aws.region"), "{error}");

    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>\
                   <Message>The security token included in the request is invalid.</Message></Error></ErrorResponse>";
    let clients = refusing(&shop, "403 Forbidden", refusal).await;
    let error = ensure(&clients, &shop.settings).await.unwrap_err();
    assert!(matches!(error, Error::Open(OpenError::Refused { .. })), "{error:?}");
    let error = error.to_string();
    assert!(
        error.contains("does not let these credentials list topics: InvalidClientTokenId: The security"),
        "{error}"
    );
    shop.clients.dynamodb.delete_table().table_name(shop.settings.prefix.as_str()).send().await.ok();
}

#[tokio::test]
async fn a_call_is_repeated_as_often_and_waits_as_long_as_is_set() {
    let shop = Shop::open().await;
    let (listener, mut settings) = listening(&shop).await;
    settings.attempts_max = const { std::num::NonZeroU32::new(2).unwrap() };
    let requests = Arc::new(AtomicU32::new(0));
    answer(listener, "503 Service Unavailable", "", Arc::clone(&requests));
    let clients = Clients::connect(&settings).await.unwrap();
    let error = topic::look(&clients, "shop.fifo", false).await.unwrap_err();
    // Without a word of the service, it may as well be something before it that answers.
    let is_told = matches!(&error, Error::Open(OpenError::Unreachable { detail, .. }) if detail.contains("503"));
    assert!(is_told, "{error:?}");
    assert_eq!(requests.load(Ordering::Relaxed), 2);

    // Connections are made, and nobody takes them.
    let (silent, mut settings) = listening(&shop).await;
    settings.attempt_timeout = std::time::Duration::from_millis(100);
    settings.attempts_max = const { std::num::NonZeroU32::new(1).unwrap() };
    let clients = Clients::connect(&settings).await.unwrap();
    let error = topic::look(&clients, "shop.fifo", false).await.unwrap_err();
    assert!(matches!(error, Error::Open(OpenError::Unreachable { .. })), "{error:?}");
    drop(silent);
}

/// Clients whose SNS answers everything with this.
async fn refusing(shop: &Shop, status: &'static str, body: &'static str) -> Clients {
    let (listener, settings) = listening(shop).await;
    answer(listener, status, body, Arc::default());
    Clients::connect(&settings).await.unwrap()
}

/// Where SNS is looked for instead.
async fn listening(shop: &Shop) -> (TcpListener, Settings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = shop.settings.clone();
    settings.endpoints.sns = Some(format!("http://{}", listener.local_addr().unwrap()));
    (listener, settings)
}

fn answer(listener: TcpListener, status: &'static str, body: &'static str, requests: Arc<AtomicU32>) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            requests.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 16 << 10];
                let _ = stream.read(&mut request).await;
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            });
        }
    });
}
