//! Plugins are compiled in a process of their own, within limits, and what is kept of that is trusted only with the host's mark.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, eventually, guests, json, program};

#[test]
fn the_compiler_writes_machine_code_for_a_component_and_says_what_is_wrong_with_anything_else() {
    let compile = |bytes: &[u8]| {
        let mut command = program::fanfare();
        command
            .args(["compile-plugin", "8589934592", "240"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
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

/// A consumer with a module that nobody uses, of many functions that are long and nest deep: seconds of work for any machine.
fn bomb() -> Vec<u8> {
    let sum = [0x20, 0, 0x41, 7, 0x6a, 0x21, 0].repeat(20_000);
    let body = [vec![0], [3, 0x40].repeat(900), sum, vec![0x0b; 901]].concat();
    let function = [leb128(body.len()), body].concat();
    let count = leb128(100);
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 1, 0x7f, 0]),
        section(3, &[count.clone(), vec![0; 100]].concat()),
        section(10, &[count, function.repeat(100)].concat()),
    ];
    [guests::wasm("reports-two"), section(1, &module.concat())].concat()
}

/// A consumer with modules that nobody uses, each of which says a little of tables that the compiler keeps whole: 3 GiB of them.
fn memory_bomb() -> Vec<u8> {
    const MODULES: usize = 12;
    const TABLES: usize = 64;
    let table = |number| format!("(table 1048576 funcref) (elem (table {number}) (i32.const 1048575) func 0)");
    let tables: String = (0..TABLES).map(table).collect();
    let module = section(1, &wat::parse_str(format!("(module (func) {tables})")).expect("a module"));
    [guests::wasm("reports-two"), module.repeat(MODULES)].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], leb128(content.len()).as_slice(), content].concat()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn a_component_that_takes_too_long_to_compile_ends_the_compiler_at_its_limit() {
    // What the host may not exceed, the compiler may not either: neither what it is told, nor what is set from outside.
    for (cpu_seconds, outside) in [("2", "unlimited"), ("240", "2")] {
        let mut command = std::process::Command::new("sh");
        let limited = format!("ulimit -t {outside}; exec \"$0\" compile-plugin 8589934592 {cpu_seconds}");
        command.args(["-c", &limited]).arg(program::fanfare().get_program());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("its input");
        // It may end before it has read everything.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&bomb())));
        let ended = child.wait_with_output().expect("it ends");
        feeding.join().expect("fed");
        // SIGXCPU, by which the host knows that it was the limit on CPU time.
        assert_eq!((ended.status.signal(), ended.stdout.len()), (Some(24), 0), "{cpu_seconds}, {outside}: {ended:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_compiler_may_open_write_and_keep_nothing_and_does_not_outlive_its_host() {
    // It waits for a component that never comes, from the input of the shell that stands in for the host.
    let program = program::fanfare();
    let script = "exec 3<&0; \"$0\" compile-plugin 4294967296 7 <&3 >/dev/null & echo $!; wait";
    let mut host = std::process::Command::new("sh");
    host.args(["-c", script]).arg(program.get_program()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut host = host.spawn().expect("a shell");
    let input = host.stdin.take();
    let mut told = String::new();
    BufReader::new(host.stdout.take().expect("its output")).read_line(&mut told).expect("a number");
    let process = Path::new("/proc").join(told.trim());

    let limits = || fs::read_to_string(process.join("limits")).unwrap_or_default();
    eventually("it has limited itself", || {
        let limits = limits();
        let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let maximum = |name| limit(name).split_whitespace().nth(1).unwrap_or_default().to_owned();
        let set = ["Max open files", "Max file size", "Max core file size", "Max address space"].map(maximum);
        let cpu = limit("Max cpu time").split_whitespace().next().unwrap_or_default();
        if (set.each_ref().map(String::as_str), cpu) == (["0", "0", "0", "4294967296"], "7") {
            Ok(())
        } else {
            Err(limits)
        }
    });
    host.kill().expect("killed");
    host.wait().expect("it ends");
    // A process of nobody may be left for a while as a name without memory.
    eventually("its compiler has ended", || match fs::read_to_string(process.join("statm")) {
        Ok(memory) if !memory.starts_with("0 ") => Err(memory),
        _ => Ok(()),
    });
    drop(input);
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

#[test]
fn a_host_that_is_given_a_compile_bomb_goes_on_with_what_it_has() {
    goes_on_beside(&bomb(), ("FANFARE_COMPILE_TIME", "1s"), "compiling it takes more than ", "raise compile.time");
}

#[test]
fn a_host_whose_compiler_is_to_fill_the_memory_goes_on_with_what_it_has() {
    let told = "compiling it takes more than 2048 MiB of memory";
    goes_on_beside(&memory_bomb(), ("FANFARE_COMPILE_MEMORY", "2GiB"), told, "or compile.memory");
}

/// Drops `bomb` on a host with this limit, which says why it is not taken, and what to do.
fn goes_on_beside(bomb: &[u8], (limit, max): (&str, &str), why: &str, what_to_do: &str) {
    let mut host = TestHost::new();
    host.variable(limit, max);
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    let client = host.client();
    host.consumers.put("reports", bomb);
    let shown = client.wait_for_consumer("reports", |consumer| {
        // While it is compiled, orders are taken and handled.
        let _ = client.placed(&order(&[("TEA", 1)]));
        consumer["candidate"]["state"] == "failed"
    });
    assert_eq!((&shown["state"], &shown["version"]), (&json!("running"), &json!("1.0.0")), "{shown:#}");
    let told = program::run(["consumers", "show", "reports", "--url", client.base()]).succeeded().stdout;
    let reason = shown["candidate"]["reason"].as_str().expect("a reason");
    for told in [reason, &told] {
        assert!(told.contains(why) && told.contains(what_to_do), "{told}");
    }
    eventually("the log says so", || {
        let log = host.log();
        if log.contains(why) && log.contains(what_to_do) { Ok(()) } else { Err(log) }
    });
    client.wait_until_idle();
    assert_eq!(client.consumer("reports").expect("reports")["dead"], 0);
    assert!(client.counter("reports", "handled") > 0);
    // And takes up what is good after that.
    host.consumers.put("reports", &guests::wasm("reports-two"));
    client.wait_for_consumer("reports", |consumer| consumer["version"] == "2.0.0");
}
