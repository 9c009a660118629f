//! A hub of one repository on loopback: answers the three requests that a client makes, logs them, and can misbehave.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One file of the repository.
#[derive(Clone)]
pub struct File {
    pub branch: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// How the hub answers.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Mood {
    #[default]
    Well,
    /// Every request gets this status.
    Status(u16),
    /// Downloads announce their full length and stop after half of it.
    HangUp,
    /// The same, once; then all is well.
    HangUpOnce,
    /// Downloads send half and pretend that it is all.
    Short,
    /// Downloads send other bytes of the right length.
    Corrupt,
}

/// The running hub. It ends with the process.
pub struct FakeHub {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    kind: &'static str,
    id: &'static str,
    files: Vec<File>,
    mood: Mutex<Mood>,
    log: Mutex<Vec<String>>,
    tokens: Mutex<Vec<String>>,
}

/// The commit that every branch of the fake stands at, made from the branch's name.
pub fn commit(branch: &str) -> String {
    consilium_core::hash::sha256_hex(branch.as_bytes())[..40].to_string()
}

impl FakeHub {
    /// Serves `files` as the repository `id` of `kind` (`datasets` or `models`).
    pub fn serve(kind: &'static str, id: &'static str, files: Vec<File>) -> FakeHub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            kind,
            id,
            files,
            mood: Mutex::default(),
            log: Mutex::default(),
            tokens: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.converse(stream));
            }
        });
        FakeHub { endpoint, state }
    }

    pub fn set(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    /// Paths asked for so far; forgets them.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }

    /// `Authorization` headers seen so far.
    pub fn tokens(&self) -> Vec<String> {
        self.state.tokens.lock().unwrap().clone()
    }
}

struct Request {
    path: String,
    /// First byte and, if given, last byte asked for.
    range: Option<(usize, Option<usize>)>,
}

impl State {
    fn converse(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = self.hear(&mut reader) {
            if self.answer(&request, &stream).is_none() {
                return;
            }
        }
    }

    fn hear(&self, reader: &mut impl BufRead) -> Option<Request> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let path = line.split(' ').nth(1)?.to_string();
        self.log.lock().unwrap().push(path.clone());
        let mut range = None;
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                    range = Some((from.parse().ok()?, to.parse().ok()));
                }
                "authorization" => self.tokens.lock().unwrap().push(value.to_string()),
                _ => {}
            }
        }
        Some(Request { path, range })
    }

    /// `None` when the connection is over.
    fn answer(&self, request: &Request, mut stream: &TcpStream) -> Option<()> {
        let mood = *self.mood.lock().unwrap();
        if let Mood::Status(status) = mood {
            return send(&mut stream, status, "", b"");
        }
        let listing = format!("/api/{}/{}/revision/", self.kind, self.id);
        if let Some(branch) = request.path.strip_prefix(&listing) {
            let branch = branch.replace("%2F", "/");
            let names: Vec<String> =
                self.of_branch(&branch).map(|file| format!("{{\"rfilename\":\"{}\"}}", file.name)).collect();
            if names.is_empty() {
                return send(&mut stream, 404, "", b"");
            }
            let body = format!("{{\"sha\":\"{}\",\"siblings\":[{}]}}", commit(&branch), names.join(","));
            return send(&mut stream, 200, "", body.as_bytes());
        }
        let prefix = if self.kind == "datasets" { "/datasets/" } else { "/" };
        let (revision, name) =
            request.path.strip_prefix(&format!("{prefix}{}/resolve/", self.id))?.split_once('/')?;
        let Some(file) = self
            .files
            .iter()
            .find(|file| file.name == name && (file.branch == revision || commit(file.branch) == revision))
        else {
            return send(&mut stream, 404, "", b"");
        };
        self.send_file(file, request.range.unwrap_or_default(), mood, stream)
    }

    fn of_branch(&self, revision: &str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| file.branch == revision || commit(file.branch) == revision)
    }

    fn send_file(
        &self,
        file: &File,
        (from, to): (usize, Option<usize>),
        mood: Mood,
        mut stream: &TcpStream,
    ) -> Option<()> {
        let size = file.bytes.len();
        if from >= size {
            return send(&mut stream, 416, "", b"");
        }
        let part = &file.bytes[from..to.map_or(size, |to| (to + 1).min(size))];
        // Weights are named by SHA-256 as with LFS, other files by something shorter.
        let sha = consilium_core::hash::sha256_hex(&file.bytes);
        let etag = if file.name.ends_with("safetensors") { &sha[..] } else { &sha[..40] };
        let headers = format!(
            "ETag: \"{etag}\"\r\nx-repo-commit: {}\r\nContent-Range: bytes {from}-{}/{size}\r\n",
            commit(file.branch),
            from + part.len() - 1
        );
        // The first request of a download asks for one byte, to learn the headers. It is always answered well.
        let half = &part[..part.len() / 2];
        match mood {
            Mood::HangUp | Mood::HangUpOnce if to.is_none() => {
                if mood == Mood::HangUpOnce {
                    *self.mood.lock().unwrap() = Mood::Well;
                }
                let head = format!("HTTP/1.1 206 Partial\r\nContent-Length: {}\r\n{headers}\r\n", part.len());
                stream.write_all(head.as_bytes()).ok()?;
                stream.write_all(half).ok()?;
                stream.shutdown(std::net::Shutdown::Both).ok()?;
                None
            }
            Mood::Short if to.is_none() => send(&mut stream, 206, &headers, half),
            Mood::Corrupt if to.is_none() => send(&mut stream, 206, &headers, &vec![b'?'; part.len()]),
            _ => send(&mut stream, 206, &headers, part),
        }
    }
}

fn send(stream: &mut impl Write, status: u16, headers: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}
