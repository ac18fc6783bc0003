use super::*;

#[track_caller]
fn stands(target: &mut dyn Target, runs: u64, seed: u64) {
    if let Err(finding) = run(target, runs, seed) {
        panic!("{finding}");
    }
}

#[test]
fn a_thousand_bad_plugin_files_are_each_refused_in_few_words_or_run_inside_the_sandbox() {
    let mut plugins = Plugins::default();
    stands(&mut plugins, 1_000, 1);
    let of = |wanted: fn(&Stage) -> bool| {
        plugins.came.iter().filter(|((_, stage), _)| wanted(stage)).map(|(_, count)| count).sum::<u64>()
    };
    assert!(of(|stage| *stage == Stage::Refused) >= 200, "valid, and refused later: {:#?}", plugins.came);
    assert!(of(|stage| *stage == Stage::Invalid) >= 200, "{:#?}", plugins.came);
}

#[test]
fn damaged_side_files_are_read_or_refused_by_line() {
    let mut side_files = SideFiles::default();
    stands(&mut side_files, 5_000, 2);
    assert!(side_files.taken > 20, "{} of them do", side_files.taken);
}

#[test]
fn any_filter_is_compiled_or_refused_and_always_means_the_same() {
    let mut filters = Filters::default();
    stands(&mut filters, 5_000, 3);
    assert!(filters.taken > 50, "{} of them do", filters.taken);
}

#[test]
fn damaged_orders_and_events_are_taken_or_refused_as_a_problem() {
    let mut requests = Requests::default();
    stands(&mut requests, 600, 4);
    assert!(requests.taken > 10, "{} of them do", requests.taken);
}
