//! Images: inspect, remove and pull. A pull runs on the caller's thread for as long as it takes, with a bound on
//! its silence, and is ended by its [`Closer`].

use std::time::Duration;

use serde::Deserialize;

use super::auth::RegistryAuth;
use super::call::{Call, Escaped};
use super::client::Client;
use super::closer::Closer;
use super::error::Error;
use super::inspect::Image;
use super::json_lines::JsonLines;
use super::reference::{ImageVersion, Reference};

/// The Engine answers only once the registry has, and that may be slow to begin with.
const PULL_BEGIN_LIMIT: Duration = Duration::from_secs(300);
/// A pull that says nothing for so long hangs; one that goes on says so several times a second.
const PULL_SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// One step of a pull, as the Engine tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress<'a> {
    /// The layer; empty when it is about the whole.
    pub layer: &'a str,
    /// Such as `Downloading`, `Extracting`, `Pull complete`.
    pub status: &'a str,
    /// Bytes of this layer, in this step.
    pub current: Option<u64>,
    pub total: Option<u64>,
}

impl Client {
    /// By reference or `sha256:…` id. 404 when it is not there.
    pub fn image_inspect(&self, name: &str) -> Result<Image, Error> {
        self.http().json(Call::get(image_path(name)? + "/json"))
    }

    /// All images that have a label, `name` or `name=value`.
    pub fn image_list(&self, label: &str) -> Result<Vec<Image>, Error> {
        let filters = serde_json::json!({"label": [label]});
        self.http().json(Call::get("/images/json").query("filters", filters))
    }

    /// Makes an image of an archive of its files, with a label.
    ///
    /// An error of the Engine's that comes after it has begun to answer is found by the inspect that follows.
    pub fn image_import(
        &self,
        repository: &str,
        tag: &str,
        label: (&str, &str),
        archive: Vec<u8>,
    ) -> Result<Image, Error> {
        let call = Call::post("/images/create")
            .query("fromSrc", "-")
            .query("repo", repository)
            .query("tag", tag)
            .query("changes", format_args!("LABEL {}={}", label.0, label.1))
            .tar(archive);
        self.http().run(call)?;
        self.image_inspect(&format!("{repository}:{tag}"))
    }

    /// Takes a name away and, with its last, the image. 404 when it is not there; 409 while a container uses it.
    pub fn image_remove(&self, name: &str) -> Result<(), Error> {
        self.http().run(Call::delete(image_path(name)?)).map(drop)
    }

    /// Pulls one image and returns what an inspect then says of it.
    ///
    /// A refusal before the first byte is the Engine's status (404 unknown, 500 registry not reached, …). One in the
    /// stream, which began with 200, is a status too: the one it names, else 500. An end without an error is not
    /// trusted until the image can be inspected. Bounds: 5 min until the Engine answers, 60 s between two
    /// signs of progress.
    pub fn image_pull(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        progress: &mut dyn FnMut(&PullProgress<'_>),
        closer: &Closer,
    ) -> Result<Image, Error> {
        let (ImageVersion::Tag(version) | ImageVersion::Digest(version)) = &reference.version;
        // Without a tag the Engine would fetch every one that the repository has; it takes a digest for one too.
        let mut call =
            Call::post("/images/create").query("fromImage", reference.name()).query("tag", version);
        if let Some(auth) = auth {
            call = call.header("x-registry-auth", auth.header());
        }
        let response = self.http().open(call, closer, PULL_BEGIN_LIMIT)?;
        closer.limit_reads(PULL_SILENCE_LIMIT);
        let mut lines = JsonLines::new(response.into_body().into_reader());
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    return Err(closer.explain(match Error::from_reader(error) {
                        Error::Timeout(_) => Error::Timeout("the pull made no progress for 60 s"),
                        error => error,
                    }));
                }
            };
            // Several objects may share a line.
            for message in serde_json::Deserializer::from_slice(line).into_iter::<Message>() {
                let message = message.map_err(|e| Error::Malformed(format!("pull: {e}")))?;
                message.report(progress)?;
            }
        }
        if closer.is_closed() {
            return Err(Error::Cancelled);
        }
        self.image_inspect(&reference.to_string())
    }
}

/// One object of the pull stream. `error` alone is what Engines before 1.48 may send.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Message {
    id: Option<String>,
    status: Option<String>,
    progress_detail: Option<Detail>,
    error: Option<String>,
    error_detail: Option<ErrorDetail>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Detail {
    current: Option<u64>,
    total: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorDetail {
    code: Option<u16>,
    message: String,
}

impl Message {
    fn report(&self, progress: &mut dyn FnMut(&PullProgress<'_>)) -> Result<(), Error> {
        if self.error.is_some() || self.error_detail.is_some() {
            let detail = self.error_detail.as_ref();
            let text = detail.map(|d| &*d.message).filter(|text| !text.is_empty());
            let text = text.or(self.error.as_deref()).unwrap_or_default();
            let status = detail.and_then(|d| d.code).filter(|code| (400..600).contains(code)).unwrap_or(500);
            return Err(Error::status_of(status, text));
        }
        let detail = self.progress_detail.as_ref();
        progress(&PullProgress {
            layer: self.id.as_deref().unwrap_or_default(),
            status: self.status.as_deref().unwrap_or_default(),
            current: detail.and_then(|d| d.current),
            total: detail.and_then(|d| d.total),
        });
        Ok(())
    }
}

/// A text that no image can be named by is not sent: in a path it could mean something else.
fn image_path(name: &str) -> Result<String, Error> {
    let is_id = name.strip_prefix("sha256:").is_some_and(|id| id.bytes().all(|b| b.is_ascii_hexdigit()));
    match is_id || name.parse::<Reference>().is_ok() {
        true => Ok(format!("/images/{}", Escaped(name))),
        false => Err(Error::status_of(404, "no image can have this name")),
    }
}
