//! Tests against the real kernel, in namespaces of their own: nothing here touches the host.
//!
//! ```text
//!   main    leaves the host (unshare) before any thread starts, then runs the tests
//!   test    a namespace "host" of its own, with a cable to a namespace "world":
//!
//!             host  eth0 192.0.2.2/24, 2001:db8::2/64  ----  eth0 .1  world   (default route)
//! ```
//! Where namespaces are forbidden they are SKIPPED with the reason, or fail if `MARMOT_LAB=required`. They run one at a time:
//! a program that a test starts holds, between fork and exec, the descriptors of all tests, and a device that one of them has
//! closed stays until then.

mod changes;
mod children;
mod kept;
mod lab;
mod ledgers;
mod offload;
mod queues;
mod routing;
mod tunnel;
mod udp;

use libtest_mimic::{Arguments, Trial};
use platform::netns::unshare_process;

fn main() {
    if let Some(code) = children::run() {
        std::process::exit(code);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if let Err(reason) = unshare_process(false) {
        if std::env::var("MARMOT_LAB").as_deref() == Ok("required") {
            eprintln!("FAILED: MARMOT_LAB=required, but {reason}");
            std::process::exit(1);
        }
        println!("SKIPPED: tests of crates/platform on a real kernel: {reason}");
        return;
    }
    let tests = [
        tunnel::tests(),
        changes::tests(),
        udp::tests(),
        kept::tests(),
        ledgers::tests(),
        routing::tests(),
        offload::tests(),
        queues::tests(),
        children::tests(),
    ];
    let tests: Vec<Trial> = tests
        .into_iter()
        .flatten()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&arguments, tests).exit();
}
