//! What commits go by.

use super::*;

fn gated() -> Stands {
    Stands::Gated { rebuild: 7, gate: Key { pk: "w#alpha".into(), sk: "7".into() } }
}

#[test]
fn a_host_is_fenced_once_nothing_is_on_its_way_that_went_by_what_was_known_before() {
    let ground = Arc::new(Ground { generation: 0, stands: Stands::Free });
    let (asked, unfenced) = (Asked::now(), Vec::new());
    let mut footing = Footing { ground, asked, unfenced, joined: None };
    let on_its_way = Arc::clone(&footing.ground);
    assert!(!footing.is_fenced());
    footing.stand(0, gated());
    assert!(!footing.is_fenced(), "a commit without a gate may come still");
    footing.stand(0, Stands::Shut { rebuild: 7 });
    footing.stand(0, gated());
    assert!(!footing.is_fenced());
    drop(on_its_way);
    assert!(footing.is_fenced());
    footing.stand(7, Stands::Free);
    assert!(!footing.is_fenced(), "the next rebuild is another matter");
}

#[test]
fn what_was_asked_for_before_the_machine_slept_is_old() {
    let asked = Asked::now();
    assert!(asked.age() < KNOWN_MAX);
    // Instants stand still meanwhile.
    let slept = Asked { time: asked.time.minus(KNOWN_MAX), ..asked };
    assert!(slept.age() >= KNOWN_MAX);
    let set_back = Asked { time: asked.time.plus(KNOWN_MAX), ..asked };
    assert!(set_back.age() < KNOWN_MAX);
}
