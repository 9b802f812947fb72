//! Arguments and configuration that make no sense are refused in words, before anything is opened.

use sandrail_lab::{Lab, Side};

use crate::bed::{BLADE, blade, lab, possible};

#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let output = blade(args);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {words}");
    for part in says {
        assert!(words.contains(part), "{args:?}: no `{part}` in {words}");
    }
    assert!(output.stdout.is_empty(), "{args:?}: not ready");
}

#[test]
fn what_makes_no_sense_names_the_argument_and_what_is_allowed() {
    let ram = ["-e", "e7.3=ram:1M"];
    refused(&ram, 2, &["--interface", "at least one"]);
    refused(
        &["-i", "lo", "-e", "e7.3=ram:1M"],
        2,
        &["lo is the loopback"],
    );
    refused(
        &["-i", "lo", "--force-interface", "-e", "e7.3=ram:1M"],
        2,
        &["lo is the loopback"],
    );
    refused(
        &["-i", "nosuchif0", "-e", "e7.3=ram:1M"],
        2,
        &["nosuchif0", "does not exist"],
    );
    refused(
        &["-i", "x0", "-e", "e7.3"],
        2,
        &["--export", "ADDRESS=FILE"],
    );
    refused(
        &["-i", "x0", "-e", "e7.3=ram:1M,ofset=1"],
        2,
        &["ofset", "`offset`"],
    );
    refused(
        &["-i", "x0", "--link", "dpdk", "-e", "e7.3=ram:1M"],
        2,
        &["xdp-generic"],
    );
    refused(
        &["-i", "x0", "--cores", "1,1", "-e", "e7.3=ram:1M"],
        2,
        &["different core"],
    );
    refused(
        &["-i", "x0", "--buffer-count", "0", "-e", "e7.3=ram:1M"],
        2,
        &["from 1 to 4096"],
    );
    refused(
        &["ctl", "/nonexistent/socket", "status"],
        1,
        &["no blade listens"],
    );
}

#[test]
fn errors_of_the_file_name_its_line() {
    let path =
        std::env::temp_dir().join(format!("sandrail-blade-args-{}.toml", std::process::id()));
    std::fs::write(
        &path,
        "link = \"packet\"\n\n[[export]]\naddress = \"e7.3\"\nrom = \"1M\"\n",
    )
    .unwrap();
    let shown = path.to_str().unwrap();
    refused(&["-c", shown], 2, &[&format!("{shown}:5: rom"), "`ram`"]);
    std::fs::remove_file(&path).unwrap();
    refused(&["-c", shown], 3, &["cannot read the configuration", shown]);
}

#[test]
fn a_check_says_what_would_be_served_and_touches_nothing() {
    if !possible("a_check_says_what_would_be_served_and_touches_nothing") {
        return;
    }
    let lab = lab(1);
    let run = |args: &[&str]| {
        let mut command = lab.command(Side::Target, BLADE);
        command.args([
            "-i",
            lab.interface(Side::Target),
            "-e",
            "e7.3=ram:1M,read-only",
        ]);
        command.args(args).output().unwrap()
    };
    let output = run(&["--check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        text.contains("e7.3 on san1: memory, 1 MiB, not reserved"),
        "{text}"
    );
    let twice = run(&["--check", "-i", "san1"]);
    assert_eq!(twice.status.code(), Some(2), "{twice:?}");
    let again = run(&["--check", "-e", "7.3=ram:1M"]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("served already"),
        "{again:?}"
    );
    let mtu = run(&["--mtu-check", "9001"]);
    assert_eq!(mtu.status.code(), Some(3), "{mtu:?}");
    assert!(
        String::from_utf8_lossy(&mtu.stderr).contains("9000 bytes, less than 9001"),
        "{mtu:?}"
    );
    default_route(&lab, run);
}

fn default_route(lab: &Lab, run: impl Fn(&[&str]) -> std::process::Output) {
    let gateway = lab.address(Side::Initiator).to_string();
    let mut ip = lab.command(Side::Target, "ip");
    let added = ip
        .args(["route", "add", "default", "via", &gateway])
        .status()
        .unwrap();
    assert!(added.success());
    let refused = run(&["--check"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("default route (IPv4)"),
        "{refused:?}"
    );
    assert!(run(&["--check", "--force-interface"]).status.success());
}
