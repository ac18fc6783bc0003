//! A function whose version lays the state of its consumer out otherwise, while functions of the former version run.

use std::time::{Duration, Instant};

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::guests;
use fanfare_tests::lambda::TestFunction;
use fanfare_tests::lambda::shop::{counter, handled, place};
use fanfare_tests::lambda::{SHORT, Source};

/// A function that does not say so may be on its way with something for half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

fn function(prefix: &str, guest: &str) -> TestFunction {
    let mut function = TestFunction::new("consumer.reports", prefix);
    function.consumers.put("reports", &guests::wasm(guest));
    function.start();
    function
}

#[test]
fn functions_of_the_former_layout_handle_nothing_more_and_the_new_ones_begin_when_nothing_of_theirs_is_left() {
    let prefix = prefix();
    let mut former = function(&prefix, "reports-one");
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "reports");
    let place = |api: &mut TestFunction, count: usize| (0..count).for_each(|_| drop(place(api, &[("TEA", 1)])));
    place(&mut api, 2);
    handled(&mut former, &queue, 2);

    let mut relaid = function(&prefix, "reports-relaid");
    let began = Instant::now();
    place(&mut api, 3);
    let event = queue.event(3);
    for function in [&mut relaid, &mut former] {
        let answer = function.try_invoke(&event, SHORT).expect("it answers");
        assert_eq!(queue.settle(&event, &answer).len(), 3, "{answer:#}");
    }
    loop {
        let answer = relaid.invoke(&event);
        if queue.settle(&event, &answer).is_empty() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{answer:#}\n{}", relaid.log());
    }
    assert!(began.elapsed() > Duration::from_secs(30), "the former one may have been in the middle of something");
    place(&mut api, 1);
    let event = queue.event(1);
    let answer = former.invoke(&event);
    assert_eq!(queue.settle(&event, &answer).len(), 1, "{answer:#}");
    let answer = relaid.invoke(&event);
    assert!(queue.settle(&event, &answer).is_empty(), "{answer:#}");
    let counts = ["by-version/1", "by-version/4"].map(|key| counter(&mut api, "reports", key));
    assert_eq!(counts, [2, 4]);
}
