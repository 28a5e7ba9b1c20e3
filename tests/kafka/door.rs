//! Brokers that speak TLS, and ask who comes.
//!
//! Enters: a broker behind a door of Python's ssl, which has accounts. Leaves: nothing. Always holds: who has the right
//! password reads and writes, others get an error that says so; a password is nowhere.

use super::broker::{Broker, Script};
use super::{numbers, rows};
use crate::support::{Place, Ran, certificates};

const PASSWORD: &str = "canary-of-the-door";

struct Door {
    broker: Broker,
    script: Script,
    place: Place,
}

impl Door {
    fn start() -> Self {
        let (broker, place) = (Broker::start(), Place::new());
        certificates(place.path());
        let file = |name: &str| place.path().join(name).display().to_string();
        let (port, certificate, key) = (broker.port.to_string(), file("server.pem"), file("server.key"));
        let script = Script::start("kafka_door.py", &[&port, &certificate, &key, "reader", PASSWORD], &[]);
        Self { broker, script, place }
    }

    /// A pipeline from a topic to a topic.
    fn pipeline(&self, mechanism: &str, protocol: &str) -> String {
        let options = format!(
            "'kafka.security.protocol' '{protocol}', 'kafka.sasl.mechanism' '{mechanism}', 'kafka.ssl.ca.location' '{}',
             'kafka.sasl.username' 'reader', 'kafka.sasl.password' 'env:DOOR'",
            self.place.path().join("ca.pem").display()
        );
        let at = format!("kafka://127.0.0.1:{}", self.script.port);
        format!(
            "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{at}/t' OPTIONS ({options});
             CREATE EXTERNAL TABLE out (n BIGINT) STORED AS JSON LOCATION '{at}/out' OPTIONS ({options});
             INSERT INTO out SELECT n * 2 FROM t;"
        )
    }

    fn run(&self, args: &[&str], password: &str) -> Ran {
        Ran::from(self.place.command(args).env("DOOR", password).output().expect("runs"))
    }
}

#[test]
fn who_has_the_password_reads_and_writes() {
    let door = Door::start();
    door.broker.run(&["create", "t", "2"], "");
    door.broker.run(&["write", "t"], &numbers(0..100, 2));
    let mut told = Vec::new();
    for (round, mechanism) in [(1, "PLAIN"), (2, "SCRAM-SHA-256")] {
        door.place.write("p.sql", door.pipeline(mechanism, "SASL_SSL"));
        let ran = door.run(&["query", "p.sql", "--once", "--fresh"], PASSWORD);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        told.push(ran);
        // From outside of the door, all is as it was.
        let read = door.broker.run(&["read", "out"], "");
        assert_eq!(read.lines().count(), round * 100, "{mechanism}");
    }
    // At rest, too.
    let table = door.pipeline("PLAIN", "SASL_SSL").split(';').nth(1).expect("a statement").to_owned();
    told.push(door.run(&["query", "-c", &format!("{table}; INSERT INTO out VALUES (7)")], PASSWORD));
    assert_eq!(told[2].code, Some(0), "{}", told[2].stderr);
    assert_eq!(door.broker.run(&["read", "out"], "").lines().count(), 201);
    for ran in &told {
        assert!(!ran.stdout.contains(PASSWORD) && !ran.stderr.contains(PASSWORD), "{ran:?}");
    }
    for name in door.place.files() {
        let bytes = std::fs::read(door.place.path().join(&name)).expect("a file");
        assert!(memchr::memmem::find(&bytes, PASSWORD.as_bytes()).is_none(), "{name}");
    }
    assert!(rows(&door.place, "SELECT 1").starts_with('1'));
}

#[test]
fn who_has_not_is_told() {
    let door = Door::start();
    door.broker.run(&["create", "t", "1"], "");
    door.broker.run(&["write", "t"], &numbers(0..3, 1));
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        door.place.write("p.sql", door.pipeline(mechanism, "SASL_SSL"));
        let told = door.run(&["query", "p.sql", "--once"], "canary-of-another").error(1);
        assert!(told.contains("the topic out") && told.to_lowercase().contains("authentication"), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }
    // Who does not speak TLS is told what to try; so is who does not trust the certificate.
    door.place.write("p.sql", door.pipeline("PLAIN", "SASL_PLAINTEXT"));
    let told = door.run(&["query", "p.sql", "--once"], PASSWORD).error(1);
    assert!(told.contains("is it meant to speak TLS or SASL?"), "{told}");
    door.place.write("ca.pem", door.place.read("server.key"));
    door.place.write("p.sql", door.pipeline("PLAIN", "SASL_SSL"));
    let told = door.run(&["query", "p.sql", "--once"], PASSWORD).error(1);
    assert!(told.contains("ssl.ca.location"), "{told}");
}
