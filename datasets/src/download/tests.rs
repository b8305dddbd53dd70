//! Against a server in this process, on the loopback interface: a thread that the test ends and joins.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

const BODY: &[u8] = b"not really MNIST";
const FILE: RemoteFile = RemoteFile {
    name: "digits.gz",
    length: BODY.len() as u64,
    sha256: "3bf8ebf9614a82c0cdd3ede621d9bf4d8ae3ee9332b6ff125f262e1553ad5a0d",
};

/// Answer of the server to a request.
#[derive(Clone)]
enum Reply {
    /// Answers with a status line's words and a body.
    Whole(&'static str, Vec<u8>),
    /// Promises the length of [`BODY`] and closes after its first bytes.
    Cut(usize),
    /// Answers without a length, so that the end of the connection is the end of the body.
    Unsized(Vec<u8>),
    /// Answers without a length, and sends until the client has enough.
    Endless,
    /// Never answers.
    Silence,
}

impl Reply {
    fn good() -> Self {
        Self::Whole("200 OK", BODY.to_vec())
    }

    fn write(&self, mut stream: &TcpStream, stop: &AtomicBool) -> io::Result<()> {
        let (status, length, body) = match self {
            Self::Whole(status, body) => (*status, Some(body.len()), &body[..]),
            Self::Cut(at) => ("200 OK", Some(BODY.len()), &BODY[..*at]),
            Self::Unsized(body) => ("200 OK", None, &body[..]),
            Self::Endless => ("200 OK", None, BODY),
            Self::Silence => {
                // Until the client gives up or the test ends.
                while !stop.load(Ordering::SeqCst) && !matches!(stream.read(&mut [0]), Ok(0)) {}
                return Ok(());
            }
        };
        let length = length.map(|length| format!("content-length: {length}\r\n"));
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{}",
            length.unwrap_or_default()
        )?;
        stream.write_all(b"connection: close\r\n\r\n")?;
        stream.write_all(body)?;
        while matches!(self, Self::Endless) && !stop.load(Ordering::SeqCst) {
            stream.write_all(&[7; 4096])?;
        }
        Ok(())
    }
}

/// Answers its first requests from a list and all others with its last entry.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (replies, seen, ended) = (replies.to_vec(), requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_millis(200)))
                    .unwrap();
                let line = BufReader::new(&stream).lines().map_while(io::Result::ok);
                let head: Vec<String> = line.take_while(|line| !line.is_empty()).collect();
                let mut seen = seen.lock().unwrap();
                let reply = &replies[seen.len().min(replies.len() - 1)];
                seen.push(head.first().cloned().unwrap_or_default());
                drop(seen);
                // A client that leaves early is what some of the tests are about.
                let _ = reply.write(&stream, &ended);
            }
        });
        Self {
            address,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    fn url(&self) -> String {
        format!("http://{}/mnist", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread where it waits for a connection.
        let _ = TcpStream::connect(self.address);
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(joined, Some(Ok(()))));
    }
}

fn client_with_patience(mirrors: &[&Server], patience: Duration) -> Client {
    let mirrors = mirrors.iter().map(|server| server.url()).collect();
    // No proxy: the tests stay on the loopback interface whatever the environment says.
    Client {
        mirrors,
        agent: agent([patience; 3], None),
    }
}

fn client(mirrors: &[&Server]) -> Client {
    client_with_patience(mirrors, Duration::from_secs(20))
}

fn names_in(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Fetches into an empty directory what can't be had, and returns what is said of it.
fn failures(client: &Client) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let error = client.fetch_all(directory.path(), &[FILE]).unwrap_err();
    assert_eq!(
        names_in(&directory),
        [""; 0],
        "a failed download leaves nothing"
    );
    let message = error.to_string();
    let Error::Download { file, failures } = error else {
        panic!("{message}")
    };
    assert_eq!(file, FILE.name);
    for what in ["digits.gz", "--data-dir", "embedded digits"] {
        assert!(message.contains(what), "{message}");
    }
    failures
}

/// Fetches into an empty directory, and checks that the file and nothing else is there.
fn succeed(client: &Client) {
    let directory = TempDir::new().unwrap();
    client.fetch_all(directory.path(), &[FILE]).unwrap();
    assert_eq!(names_in(&directory), [FILE.name]);
    assert_eq!(fs::read(directory.path().join(FILE.name)).unwrap(), BODY);
}

#[test]
fn a_good_file_is_fetched_once() {
    let server = Server::start(&[Reply::good()]);
    let directory = TempDir::new().unwrap();
    let inner = directory.path().join("made/on/demand");
    for _ in 0..2 {
        client(&[&server]).fetch_all(&inner, &[FILE]).unwrap();
        assert_eq!(fs::read(inner.join(FILE.name)).unwrap(), BODY);
        assert_eq!(server.requests(), 1);
    }
    assert_eq!(
        server.requests.lock().unwrap()[0],
        "GET /mnist/digits.gz HTTP/1.1"
    );
}

#[test]
fn a_damaged_file_is_fetched_anew() {
    let changed = [b"N", &BODY[1..]].concat();
    for damaged in [&b""[..], &BODY[1..], &changed, &[BODY, b"."].concat()] {
        let server = Server::start(&[Reply::good()]);
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(FILE.name), damaged).unwrap();
        client(&[&server])
            .fetch_all(directory.path(), &[FILE])
            .unwrap();
        assert_eq!(fs::read(directory.path().join(FILE.name)).unwrap(), BODY);
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_wrong_checksum_is_refused_and_the_next_mirror_is_asked() {
    let wrong = Server::start(&[Reply::Whole("200 OK", b"Not really MNIST".to_vec())]);
    let good = Server::start(&[Reply::good()]);
    succeed(&client(&[&wrong, &good]));
    assert_eq!((wrong.requests(), good.requests()), (1, 1));

    let told = failures(&client(&[&wrong]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with(&wrong.url()) && told[0].contains(FILE.sha256),
        "{told:?}"
    );
}

#[test]
fn a_body_that_breaks_off_is_asked_for_again() {
    for cut in [0, 1, BODY.len() - 1] {
        let server = Server::start(&[Reply::Cut(cut), Reply::good()]);
        succeed(&client(&[&server]));
        assert_eq!(server.requests(), 2);
    }
    let server = Server::start(&[Reply::Cut(5)]);
    let told = failures(&client(&[&server]));
    assert_eq!(told.len(), ROUNDS, "{told:?}");
    assert!(
        told.iter().all(|reason| reason.contains("5 bytes of 16")),
        "{told:?}"
    );
}

#[test]
fn a_body_of_unsaid_length_is_measured() {
    let short = Server::start(&[Reply::Unsized(BODY[..4].to_vec()), Reply::good()]);
    succeed(&client(&[&short]));
    // Ends only because the client stops reading by itself.
    let long = Server::start(&[Reply::Endless]);
    let told = failures(&client(&[&long]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].ends_with("it sent more than 16 bytes, where 16 belong"),
        "{told:?}"
    );
}

#[test]
fn a_status_says_whether_to_ask_again() {
    let missing = Server::start(&[Reply::Whole("404 Not Found", b"no".to_vec())]);
    let told = failures(&client(&[&missing]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("404"), "{told:?}");

    let busy = Server::start(&[Reply::Whole("503 Unavailable", Vec::new()), Reply::good()]);
    succeed(&client(&[&missing, &busy]));
    assert_eq!((missing.requests(), busy.requests()), (2, 2));
}

#[test]
fn without_a_network_every_address_is_named() {
    let servers = [
        Server::start(&[Reply::good()]),
        Server::start(&[Reply::good()]),
    ];
    let client = client(&[&servers[0], &servers[1]]);
    // Nobody listens there any more.
    drop(servers);
    let told = failures(&client);
    assert_eq!(told.len(), 2, "{told:?}");
    for (mirror, reason) in client.mirrors.iter().zip(&told) {
        assert!(
            reason.starts_with(mirror) && reason.contains("refused"),
            "{told:?}"
        );
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let server = Server::start(&[Reply::Silence]);
    let start = Instant::now();
    let told = failures(&client_with_patience(
        &[&server],
        Duration::from_millis(300),
    ));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("timeout"), "{told:?}");
    // Far above the deadline, for slow machines; without one it would be for ever.
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn downloads_at_the_same_time_do_not_disturb_one_another() {
    let server = Server::start(&[Reply::Cut(7), Reply::good()]);
    let directory = TempDir::new().unwrap();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = client(&[&server]);
                start.wait();
                client.fetch_all(directory.path(), &[FILE]).unwrap();
                assert_eq!(fs::read(directory.path().join(FILE.name)).unwrap(), BODY);
            });
        }
    });
    assert_eq!(names_in(&directory), [FILE.name]);
}

#[test]
fn what_killed_downloads_left_is_removed() {
    let directory = TempDir::new().unwrap();
    let now = SystemTime::now();
    for (name, age) in [
        (".digits.gz-old.part", STALE * 2),
        (".digits.gz-live.part", Duration::from_mins(1)),
        (".another-old.part", STALE * 2),
        (FILE.name, STALE * 2),
    ] {
        let file = File::create(directory.path().join(name)).unwrap();
        file.set_modified(now - age).unwrap();
    }
    sweep(directory.path(), &[FILE], now);
    let mut names = names_in(&directory);
    names.sort();
    assert_eq!(
        names,
        [".another-old.part", ".digits.gz-live.part", FILE.name]
    );
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = client(&[])
        .fetch_all(&file.join("inner"), &[FILE])
        .unwrap_err();
    assert!(
        matches!(&error, Error::Io { path, .. } if *path == file.join("inner")),
        "{error}"
    );
}

/// The names that are fetched are names that `MnistDataset::from_dir` looks for.
#[test]
fn the_files_make_a_data_set() {
    let directory = TempDir::new().unwrap();
    for file in &FILES {
        let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mnist-10k");
        fs::copy(embedded.join(file.name), directory.path().join(file.name)).unwrap();
    }
    for split in [crate::MnistSplit::Train, crate::MnistSplit::Test] {
        crate::MnistDataset::from_dir(directory.path(), split).unwrap();
    }
}
