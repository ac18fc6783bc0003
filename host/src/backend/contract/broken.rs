//! Backends that break a promise, one each, and the claims that find them out.

mod ports;

use std::cell::Cell;
use std::panic;
use std::sync::Once;
use std::time::Duration;

pub use self::ports::break_promise;
use super::wait::wait_no_longer_than;
use super::{Place, dead_letters, deliveries, hearing, intake, lanes};

/// What a backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: what stands around it breaks nothing.
    Nothing,
    /// Promise 1: answers with an order that is nowhere.
    OrdersForgotten,
    /// Promise 1: takes a repeat for a new order.
    KeysForgotten,
    /// Promise 1: answers with the id of an event that is nowhere.
    EventsForgotten,
    /// Promise 2: commits effects without the acknowledgement.
    NotAcknowledged,
    /// Promise 2: commits the acknowledgement without effects.
    EffectsLost,
    /// Promise 2: commits the state without messages and records.
    OutboxLost,
    /// Promise 2: commits what was decided on what holds no more.
    ReadsIgnored,
    /// Promise 2: adjusts below the floor.
    FloorsIgnored,
    /// Promise 5: takes a dead letter for done.
    LettersDropped,
    /// Promise 5: takes what is to be tried again for done.
    RetriesDropped,
    /// Promise 6: leases a lane's second event while the first one runs.
    LanesSplit,
    /// Promise 6: leases what stands behind an event that is to be tried again.
    RetriesPassed,
    /// Promise 6: leases what stands behind a dead letter.
    LettersPassed,
}

/// Of each fault, a claim that the suite finds it out, on the backends that it is tried on, by each of some claims.
macro_rules! found_out {
    ($($name:ident: $fault:ident on [$($backend:ident),+] by [$($file:ident::$claim:ident),+ $(,)?],)+) => {
        $(
            async fn $name(home: Place) {
                $(fails(stringify!($claim), home.with_fault(Fault::$fault), $file::$claim);)+
            }
        )+

        async fn one_that_breaks_nothing_passes(home: Place) {
            $($(Box::pin($file::$claim(home.with_fault(Fault::Nothing))).await;)+)+
        }

        claims! {
            one_that_breaks_nothing_passes on [embedded],
            $($name on [$($backend),+],)+
        }
    };
}

found_out! {
    one_that_forgets_orders_is_found_out: OrdersForgotten on [embedded]
        by [intake::an_order_that_was_answered_is_there_after_a_restart],
    one_that_forgets_keys_is_found_out: KeysForgotten on [embedded]
        by [intake::the_same_key_makes_one_order_and_one_answer, intake::a_repeat_is_answered_with_the_order_as_it_was_placed],
    one_that_forgets_events_is_found_out: EventsForgotten on [embedded]
        by [intake::an_event_from_outside_is_recorded_once],
    one_that_does_not_acknowledge_is_found_out: NotAcknowledged on [embedded]
        by [
            deliveries::every_effect_is_there_once_after_a_restart,
            deliveries::acknowledgements_out_of_order_survive_a_restart,
        ],
    one_that_loses_effects_is_found_out: EffectsLost on [embedded]
        by [
            deliveries::every_effect_is_there_once_after_a_restart,
            deliveries::a_handler_sees_what_its_consumer_committed_before_it_is_durable,
        ],
    one_that_loses_messages_and_records_is_found_out: OutboxLost on [embedded]
        by [deliveries::every_effect_is_there_once_after_a_restart],
    one_that_ignores_reads_is_found_out: ReadsIgnored on [embedded]
        by [deliveries::what_was_read_must_still_hold_whatever_the_outcome],
    one_that_ignores_floors_is_found_out: FloorsIgnored on [embedded] by [deliveries::no_floor_is_crossed],
    one_that_drops_dead_letters_is_found_out: LettersDropped on [embedded]
        by [
            deliveries::a_dead_letter_parks_its_lane_until_it_is_retried,
            dead_letters::a_letter_shows_what_every_attempt_staged_and_logged,
        ],
    one_that_drops_retries_is_found_out: RetriesDropped on [embedded]
        by [
            deliveries::a_retry_comes_when_it_is_due_and_before_its_lane_goes_on,
            hearing::what_was_tried_already_is_delivered_still,
        ],
    one_that_splits_lanes_is_found_out: LanesSplit on [embedded]
        by [lanes::a_lane_is_one_delivery_at_a_time_in_the_order_of_its_events],
    one_that_passes_retries_is_found_out: RetriesPassed on [embedded]
        by [
            deliveries::a_retry_keeps_its_lane_waiting_and_no_other_through_a_restart,
            deliveries::a_retry_comes_when_it_is_due_and_before_its_lane_goes_on,
        ],
    one_that_passes_dead_letters_is_found_out: LettersPassed on [embedded]
        by [
            deliveries::a_dead_letter_parks_its_lane_until_it_is_retried,
            hearing::lanes_that_stood_behind_dead_letters_go_on_once_the_policy_skips,
        ],
}

/// Asserts that a claim does not hold there. It runs on a thread of its own, which panics in silence.
fn fails<F: Future<Output = ()>>(name: &str, place: Place, claim: impl FnOnce(Place) -> F + Send + 'static) {
    /// For what never comes. A claim that fails for want of time on a slow machine was to fail anyway.
    const PATIENCE: Duration = Duration::from_secs(3);
    silence_those_that_ask();
    let fault = place.fault();
    let claim = std::thread::spawn(move || {
        SILENT.set(true);
        wait_no_longer_than(PATIENCE);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(Box::pin(claim(place)));
    });
    let Err(panic) = claim.join() else { panic!("{name} holds on a backend with the fault {fault:?}") };
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    println!("{fault:?}: {name}: {}", said.unwrap_or("a panic without words"));
}

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Panics of threads that are [`SILENT`] print nothing from now on.
fn silence_those_that_ask() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !SILENT.get() {
                print(panic);
            }
        }));
    });
}
