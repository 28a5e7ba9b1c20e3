//! Files behind http://, gs:// and az://.
//!
//! Enters: a small server on loopback that answers as such servers do. Leaves: nothing. Always holds: what is there is
//! read, by ranges; what is not there, and a server that gives no ranges, is named; what COPY writes shows when it has
//! succeeded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::{Place, Ran};

/// What a server has, and what it was asked.
#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<String, Vec<u8>>,
    asked: Vec<String>,
}

#[derive(Clone)]
struct Server {
    shelf: Arc<Mutex<Shelf>>,
    port: u16,
    ranges: bool,
    lists: bool,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pairs =
            query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query = pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
        Some(Self { method, path: decoded(path).trim_start_matches('/').to_owned(), query, headers, body })
    }
}

const DATE: &str = "Thu, 01 Feb 2024 12:00:00 GMT";

impl Server {
    fn start(ranges: bool) -> Self {
        Self::start_as(ranges, false)
    }

    /// `lists`: it speaks WebDAV.
    fn start_as(ranges: bool, lists: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Self { shelf: Arc::default(), port, ranges, lists };
        let answering = server.clone();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answering = answering.clone();
                std::thread::spawn(move || answering.answer(&stream));
            }
        });
        server
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        self.shelf.lock().expect("the shelf").files.insert(path.to_owned(), bytes);
    }

    fn answer(&self, mut stream: &TcpStream) -> Option<()> {
        let request = Request::read(stream)?;
        let mut shelf = self.shelf.lock().ok()?;
        shelf.asked.push(format!("{} {} {:?}", request.method, request.path, request.headers.get("range")));
        let (status, headers, body) = match request.method.as_str() {
            "GET" | "HEAD" if request.query.contains_key("list-type") => {
                ("200 OK", String::new(), objects(&shelf, &request))
            }
            "GET" | "HEAD" if request.query.get("comp").is_some_and(|comp| comp == "list") => {
                ("200 OK", String::new(), blobs(&shelf, &request))
            }
            "GET" | "HEAD" => self.file(&shelf, &request),
            "PUT" | "POST" => keep(&mut shelf, &request),
            "PROPFIND" if self.lists => ("207 Multi-Status", String::new(), resources(&shelf, &request)),
            "DELETE" => {
                shelf.files.remove(&request.path);
                ("204 No Content", String::new(), Vec::new())
            }
            _ => ("405 Method Not Allowed", String::new(), Vec::new()),
        };
        let length = if headers.contains("Content-Length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nLast-Modified: {DATE}\r\nETag: \"1\"\r\nConnection: close\r\n{headers}{length}\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        if request.method != "HEAD" {
            stream.write_all(&body).ok()?;
        }
        stream.flush().ok()
    }

    fn file(&self, shelf: &Shelf, request: &Request) -> (&'static str, String, Vec<u8>) {
        let Some(bytes) = shelf.files.get(&request.path) else { return ("404 Not Found", String::new(), Vec::new()) };
        let kind = "x-ms-blob-type: BlockBlob\r\nContent-Type: application/octet-stream\r\n";
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        let range = range.or(request.headers.get("x-ms-range").and_then(|range| range.strip_prefix("bytes=")));
        if let Some(range) = range.filter(|_| self.ranges) {
            let (start, end) = range.split_once('-').unwrap_or(("0", ""));
            let size = bytes.len();
            let (start, end) = match (start.parse::<usize>(), end.parse::<usize>()) {
                (Ok(start), Ok(end)) => (start, (end + 1).min(size)),
                (Ok(start), _) => (start, size),
                (_, Ok(last)) => (size.saturating_sub(last), size),
                _ => (0, size),
            };
            let headers = format!("{kind}Content-Range: bytes {start}-{}/{size}\r\n", end.saturating_sub(1));
            return ("206 Partial Content", headers, bytes.get(start..end).unwrap_or_default().to_vec());
        }
        let length = format!("Content-Length: {}\r\n", bytes.len());
        ("200 OK", format!("{kind}{length}"), bytes.clone())
    }

    fn sql(&self, place: &Place, sql: &str) -> Ran {
        self.run(place, &["query", "-q", "--format", "csv", "-c", sql])
    }

    fn run(&self, place: &Place, args: &[&str]) -> Ran {
        let host = format!("127.0.0.1:{}", self.port);
        let args: Vec<String> = args.iter().map(|arg| arg.replace("HOST", &host)).collect();
        let mut command = place.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let account = format!(
            r#"{{"gcs_base_url":"http://127.0.0.1:{}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#,
            self.port
        );
        place.write("account.json", account);
        command.env("GOOGLE_SERVICE_ACCOUNT", place.path().join("account.json"));
        command.env("GOOGLE_ALLOW_HTTP", "true").env("AZURE_ALLOW_HTTP", "true");
        command.env("AZURE_STORAGE_ACCOUNT_NAME", "account").env("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0LWtleQ==");
        command.env("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{}", self.port));
        Ran::from(command.output().expect("the program runs"))
    }
}

/// Names below a prefix, by the bucket or container that the path begins with.
fn below<'a>(shelf: &'a Shelf, request: &'a Request) -> impl Iterator<Item = (&'a str, usize)> {
    let bucket = request.path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    let prefix = request.query.get("prefix").map(String::as_str).unwrap_or_default();
    shelf.files.iter().filter_map(move |(path, bytes)| {
        let name = path.strip_prefix(bucket)?.strip_prefix('/')?;
        name.starts_with(prefix).then_some((name, bytes.len()))
    })
}

/// The list of a bucket, as S3 and Google's XML interface have it.
fn objects(shelf: &Shelf, request: &Request) -> Vec<u8> {
    let mut xml = "<ListBucketResult>".to_owned();
    for (name, size) in below(shelf, request) {
        let _ = write!(
            xml,
            "<Contents><Key>{name}</Key><LastModified>2024-02-01T12:00:00.000Z</LastModified><ETag>1</ETag><Size>{size}</Size></Contents>"
        );
    }
    (xml + "</ListBucketResult>").into_bytes()
}

/// The list of a container, as Azure has it.
fn blobs(shelf: &Shelf, request: &Request) -> Vec<u8> {
    let mut xml = "<EnumerationResults><Blobs>".to_owned();
    for (name, size) in below(shelf, request) {
        let _ = write!(
            xml,
            "<Blob><Name>{name}</Name><Properties><Last-Modified>{DATE}</Last-Modified><Content-Length>{size}</Content-Length><Content-Type>x</Content-Type><Etag>1</Etag></Properties></Blob>"
        );
    }
    (xml + "</Blobs></EnumerationResults>").into_bytes()
}

/// What is below a path, as WebDAV has it.
fn resources(shelf: &Shelf, request: &Request) -> Vec<u8> {
    let mut xml = "<multistatus>".to_owned();
    for (name, bytes) in shelf.files.iter().filter(|(name, _)| name.starts_with(request.path.as_str())) {
        let _ = write!(
            xml,
            "<response><href>/{name}</href><propstat><status>HTTP/1.1 200 OK</status><prop><resourcetype/>\
             <getlastmodified>{DATE}</getlastmodified><getcontentlength>{}</getcontentlength></prop></propstat></response>",
            bytes.len()
        );
    }
    (xml + "</multistatus>").into_bytes()
}

/// Files that are put as a whole or in parts.
fn keep(shelf: &mut Shelf, request: &Request) -> (&'static str, String, Vec<u8>) {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let query = |name: &str| request.query.get(name).cloned();
    let part = query("partNumber").map(|number| format!("{number:0>5}")).or(query("blockid"));
    if let Some(part) = part {
        shelf.parts.insert(format!("{} {part}", request.path), request.body.clone());
        return ("200 OK", String::new(), Vec::new());
    }
    if request.query.contains_key("uploads") {
        return (
            "200 OK",
            String::new(),
            b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>".to_vec(),
        );
    }
    let mut bytes = request.body.clone();
    if request.query.contains_key("uploadId") {
        let start = format!("{} ", request.path);
        bytes = shelf
            .parts
            .iter()
            .filter(|(name, _)| name.starts_with(&start))
            .flat_map(|(_, part)| part.clone())
            .collect();
    } else if query("comp").is_some_and(|comp| comp == "blocklist") {
        let ids = text.split("<Uncommitted>").skip(1).filter_map(|rest| rest.split('<').next());
        bytes = ids.filter_map(|id| shelf.parts.get(&format!("{} {id}", request.path))).flatten().copied().collect();
    }
    shelf.files.insert(request.path.clone(), bytes);
    (
        "201 Created",
        String::new(),
        b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>".to_vec(),
    )
}

/// Parquet, CSV and gzipped JSON of a thousand rows.
fn files(place: &Place) -> [(&'static str, Vec<u8>); 3] {
    ["a.parquet", "b.csv", "c.ndjson.gz"].map(|name| {
        let rows = "SELECT value AS v, 'name' || value AS s FROM generate_series(1, 1000)";
        place.sql(&format!("COPY ({rows}) TO '{name}'")).data();
        (name, std::fs::read(place.path().join(name)).expect("a file"))
    })
}

#[test]
fn a_web_server_is_read_by_ranges() {
    let (server, place) = (Server::start(true), Place::new());
    for (name, bytes) in files(&place) {
        server.put(&format!("data/{name}"), bytes);
        let rows =
            server.sql(&place, &format!("SELECT count(*) AS n, max(v) AS m FROM 'http://HOST/data/{name}'")).data();
        assert_eq!(rows, "n,m\n1000,1000\n", "{name}");
    }
    let asked = server.shelf.lock().expect("the shelf").asked.join("\n");
    assert!(asked.contains("GET data/a.parquet Some(\"bytes="), "{asked}");
    let missing = server.sql(&place, "SELECT * FROM 'http://HOST/data/nope.csv'").error(1);
    assert!(missing.contains("/data/nope.csv'") && missing.contains("no such file"), "{missing}");
    let glob = server.sql(&place, "SELECT * FROM 'http://HOST/data/*.csv'").error(1);
    assert!(glob.contains("/data/*.csv'") && glob.contains("help:"), "{glob}");
    let nobody = place.sql("SELECT * FROM 'http://127.0.0.1:1/x.csv'").error(1);
    assert!(nobody.contains("127.0.0.1:1") && !nobody.to_lowercase().contains("reqwest"), "{nobody}");
}

#[test]
fn a_web_server_without_ranges_is_named() {
    let (server, place) = (Server::start(false), Place::new());
    let [(name, bytes), ..] = files(&place);
    server.put(name, bytes);
    let error = server.sql(&place, &format!("SELECT * FROM 'http://HOST/{name}'")).error(1);
    assert!(error.contains("range") && error.contains("help:"), "{error}");
}

#[test]
fn clouds_are_read_and_written() {
    let place = Place::new();
    let files = files(&place);
    for (cloud, bucket) in [("gs", "bucket"), ("az", "container")] {
        let server = Server::start(true);
        for (name, bytes) in &files {
            server.put(&format!("{bucket}/in/{name}"), bytes.clone());
            let sql = format!("SELECT count(*) AS n, max(v) AS m FROM '{cloud}://{bucket}/in/{name}'");
            assert_eq!(server.sql(&place, &sql).data(), "n,m\n1000,1000\n", "{cloud} {name}");
        }
        let glob = format!("SELECT count(*) AS n FROM '{cloud}://{bucket}/in/*.csv'");
        assert_eq!(server.sql(&place, &glob).data(), "n\n1000\n", "{cloud}");
        let copy = format!(
            "COPY (SELECT value AS v, value % 2 AS k FROM generate_series(1, 10)) TO '{cloud}://{bucket}/out/' \
             STORED AS PARQUET PARTITIONED BY (k); \
             SELECT k, count(*) AS n FROM '{cloud}://{bucket}/out/' GROUP BY k ORDER BY k"
        );
        assert_eq!(server.sql(&place, &copy).data(), "k,n\n0,5\n1,5\n", "{cloud}");
        let fail =
            format!("COPY (SELECT 1 / (5 - value) AS v FROM generate_series(1, 10)) TO '{cloud}://{bucket}/bad.csv'");
        server.sql(&place, &fail).error(1);
        let kept: Vec<String> = server.shelf.lock().expect("the shelf").files.keys().cloned().collect();
        assert!(!kept.iter().any(|name| name.contains("bad.csv")), "{kept:?}");
        let missing = server.sql(&place, &format!("SELECT * FROM '{cloud}://{bucket}/nope.csv'")).error(1);
        assert!(missing.contains("nope.csv") && missing.contains("no such file"), "{missing}");
        assert!(!missing.contains("secret"), "{missing}");
    }
}

#[test]
fn folders_of_clouds_and_of_webdav_grow() {
    for (at, folder) in
        [("gs://bucket/in/", "bucket/in"), ("az://container/in/", "container/in"), ("http://HOST/in/", "in")]
    {
        let (server, place) = (Server::start_as(true, true), Place::new());
        let sql = format!(
            "CREATE STREAM s (id BIGINT, k BIGINT) STORED AS JSON LOCATION '{at}';
             COPY (SELECT k, count(*) AS n, sum(id) AS s FROM s GROUP BY k ORDER BY k) TO 'agg.csv';
             COPY (SELECT id FROM s) TO 'ids/' STORED AS PARQUET"
        );
        for (number, expected) in [(1, "0,1,10\n1,1,11\n"), (2, "0,2,30\n1,2,32\n"), (3, "0,3,60\n1,3,63\n")] {
            let rows = format!("{{\"id\":{0},\"k\":0}}\n{{\"id\":{1},\"k\":1}}\n", number * 10, number * 10 + 1);
            server.put(&format!("{folder}/{number}.json"), rows.into_bytes());
            server.run(&place, &["query", "--once", "--quiet", "--state", "state", "-c", &sql]).data();
            assert_eq!(place.read("agg.csv"), format!("k,n,s\n{expected}"), "{at}");
        }
        let ids = place.sql("SELECT count(*) AS n, count(DISTINCT id) AS d FROM 'ids/'").data();
        assert_eq!(ids, "n,d\n6,6\n", "{at}");
    }
}
