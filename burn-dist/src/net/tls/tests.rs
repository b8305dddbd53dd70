use super::*;

#[cfg(feature = "tls")]
impl Tls {
    /// A certificate of those for tests, with a CA of those.
    pub(crate) fn of_tests(name: &str, ca: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
        let file = |name: &str, kind: &str| folder.join(name).with_extension(kind);
        Self::from_files(file(name, "pem"), file(name, "key"), file(ca, "pem")).unwrap()
    }
}

fn from(variables: &[(&str, &str)]) -> Result<Option<Tls>> {
    Tls::from_variables(&|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).into())
    })
}

#[test]
fn some_variables_without_the_others_are_an_error() {
    assert!(from(&[]).unwrap().is_none());
    let [certificate, key, ca] = FILES;
    for (given, lacking) in [
        (&[certificate][..], key),
        (&[certificate, key], ca),
        (&[certificate, ca], key),
        (&[ca], certificate),
        (&[NAME], certificate),
    ] {
        let given: Vec<_> = given.iter().map(|name| (*name, "x")).collect();
        let error = from(&given).unwrap_err().to_string();
        assert!(error.contains(lacking), "{error}");
        assert!(error.contains("is not set"), "{error}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_the_feature_they_are_refused() {
    let given = FILES.map(|name| (name, "x"));
    let error = from(&given).unwrap_err().to_string();
    assert!(error.contains("built without it"), "{error}");
    let error = Tls::from_files("x", "x", "x").unwrap_err().to_string();
    assert!(error.contains("the feature `tls`"), "{error}");
}

#[cfg(feature = "tls")]
mod with_feature {
    use std::path::PathBuf;

    use super::*;
    use crate::JobConfig;

    fn path(file: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/certificates")
            .join(file)
    }

    fn load(certificate: &str, key: &str, ca: &str) -> Result<Tls> {
        Tls::from_files(path(certificate), path(key), path(ca))
    }

    #[track_caller]
    fn refused(loaded: Result<Tls>, words: &[&str]) {
        let error = loaded.unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_named() {
        assert!(load("member.pem", "member.key", "ca.pem").is_ok());
        let gone = "no-such.pem";
        refused(
            load(gone, "member.key", "ca.pem"),
            &["certificate", gone, "No such"],
        );
        refused(
            load("member.pem", gone, "ca.pem"),
            &["key", gone, "No such"],
        );
        refused(
            load("member.pem", "member.key", gone),
            &["CA", gone, "No such"],
        );
        let other = "README.md";
        refused(
            load(other, "member.key", "ca.pem"),
            &[other, "no certificate in PEM"],
        );
        refused(
            load("member.pem", other, "ca.pem"),
            &[other, "no private key in PEM"],
        );
        refused(
            load("member.pem", "member.key", other),
            &[other, "no certificate in PEM"],
        );
        refused(
            load("member.key", "member.pem", "ca.pem"),
            &["member.key", "no certificate in PEM"],
        );
        refused(
            load("member.pem", "stranger.key", "ca.pem"),
            &["member.pem", "stranger.key", "can't be used together"],
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_anyone_can_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::copy(path("member.key"), &key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o666)).unwrap();
        let loaded = Tls::from_files(path("member.pem"), &key, path("ca.pem"));
        refused(loaded, &["chmod 600"]);
        let big = folder.path().join("big");
        std::fs::write(&big, vec![b'\n'; (1 << 20) + 1]).unwrap();
        let loaded = Tls::from_files(&big, path("member.key"), path("ca.pem"));
        refused(loaded, &["more than 1048576 bytes"]);
    }

    #[test]
    fn the_own_certificate_is_judged_before_anyone_is_asked() {
        let check = |tls: &Tls| tls.check().map_err(|failure| failure.to_string());
        assert_eq!(check(&Tls::of_tests("member", "ca")), Ok(()));
        for (name, ca, words) in [
            ("member", "other-ca", "was not signed by the job's CA"),
            ("expired", "ca", "has expired"),
            ("misnamed", "ca", "is not for the name \"burn-dist\""),
            ("half", "ca", "may not be used by both sides"),
        ] {
            let error = check(&Tls::of_tests(name, ca)).unwrap_err();
            assert!(error.contains(words), "{error}");
            assert!(error.contains(&format!("{name}.pem")), "{error}");
        }
        let misnamed = Tls::of_tests("misnamed", "ca")
            .with_name("another-job")
            .unwrap();
        assert_eq!(check(&misnamed), Ok(()));
        assert!(misnamed.with_name("two words").is_err());
        // It is a part of what a job's configuration is checked for.
        let job = JobConfig::new(0, 1, "127.0.0.1:0").with_tls(Tls::of_tests("expired", "ca"));
        assert!(job.check().unwrap_err().to_string().contains("has expired"));
    }

    #[test]
    fn the_environment_gives_them() {
        let files = ["member.pem", "member.key", "ca.pem"].map(path);
        let [certificate, key, ca] = files.each_ref().map(|file| file.to_str().unwrap());
        let [for_certificate, for_key, for_ca] = FILES;
        let mut given = vec![(for_certificate, certificate), (for_key, key), (for_ca, ca)];
        assert!(from(&given).unwrap().unwrap().check().is_ok());
        given.push((NAME, "another-job"));
        assert!(from(&given).unwrap().unwrap().check().is_err());
        // A job of the environment has them; what is given in code replaces them.
        given.pop();
        given.extend([("RANK", "0"), ("WORLD_SIZE", "1")]);
        given.extend([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0")]);
        let job = JobConfig::from_variables(&|name| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).into())
        });
        let job = job.unwrap().unwrap();
        assert!(job.check().is_ok());
        let job = job.with_tls(Tls::of_tests("expired", "ca"));
        assert!(job.check().is_err());
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        assert_eq!(
            format!("{:?}", Tls::of_tests("member", "ca")),
            "Tls(hidden)"
        );
    }
}
