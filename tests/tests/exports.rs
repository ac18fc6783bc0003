//! Where `fanfare records export` writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fanfare_tests::TestHost;
use fanfare_tests::orders::order;
use fanfare_tests::program;

#[test]
fn records_are_exported_to_where_a_link_leads_and_standard_output_stays_what_it_is() {
    let host = TestHost::with(&["analytics"]);
    host.client().placed(&order(&[("TEA", 2)]));
    host.client().wait_until_idle();
    let command = |to: &Path| {
        let mut command = program::fanfare();
        command.args(["records", "export", "orders", "--url", host.client().base(), "--output"]).arg(to);
        command
    };
    let export = |to: &Path| program::finish(&mut command(to)).succeeded();
    let folder = host.folder().join("exports");
    fs::create_dir_all(folder.join("elsewhere")).expect("folders");
    let (link, target) = (folder.join("link"), folder.join("elsewhere/rows"));
    symlink("elsewhere/rows", &link).expect("a link");
    for _ in ["it leads nowhere yet", "it leads to a file"] {
        let _ = export(&link);
        assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("rows").lines().count(), 1);
        fs::write(&target, "older").expect("a file");
    }

    let piped = export(Path::new("/dev/stdout")).stdout;
    assert_eq!(piped.lines().count(), 1, "rows alone: {piped}");
    fs::write(&target, "before\n").expect("a file");
    let appended = fs::File::options().append(true).open(&target).expect("the file");
    assert!(command(Path::new("/dev/stdout")).stdout(appended).status().expect("fanfare").success());
    assert_eq!(fs::read_to_string(&target).expect("rows"), format!("before\n{piped}"));
}
