//! Plugins are compiled in a process of their own, within limits, and what is kept of that is trusted only with the host's mark.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, guests, program};

#[test]
fn the_compiler_writes_machine_code_for_a_component_and_says_what_is_wrong_with_anything_else() {
    let compile = |bytes: &[u8]| {
        let mut command = program::fanfare();
        command.arg("compile-plugin").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        child.stdin.take().expect("its input").write_all(bytes).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    let compiled = compile(&guests::wasm("reports-one"));
    assert!(compiled.status.success() && compiled.stdout.starts_with(b"\x7fELF"), "{:?}", compiled.status);
    let refused = compile(b"\0asm\x0d\0\x01\0 and what is no component");
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert!(!refused.stderr.is_empty());
}

#[test]
fn compiled_code_that_somebody_put_in_the_place_of_another_is_not_run() {
    let mut host = TestHost::with(&["reports-one", "reports-two"]);
    let compiled = host.data().join("compiled");
    let files = || -> Vec<_> {
        let paths = fs::read_dir(&compiled).expect("compiled plugins").map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
    };
    let [one, two] = &files()[..] else { panic!("two compiled plugins: {:?}", files()) };
    host.kill();
    // Each is whole and the host's own work, under the other's name.
    let (of_one, of_two) = (fs::read(one).expect("one"), fs::read(two).expect("two"));
    fs::write(one, &of_two).expect("one");
    fs::write(two, &of_one).expect("two");
    host.start();
    assert!(host.log().contains("is not what this host kept there"), "{}", host.log());
    let client = host.client();
    client.placed(&order(&[("TEA", 1)]));
    client.wait_until_idle();
    let counted = [("reports-one", "by-version/1"), ("reports-two", "by-version/2")];
    assert_eq!(counted.map(|(name, key)| client.counter(name, key)), [1, 1]);
    assert!(fs::read(one).expect("one") == of_one && fs::read(two).expect("two") == of_two, "both were made again");
}
