//! Answers to listings that are whole before anything is made of them.
//!
//! Enters: requests of an object store. Leaves: their answers. Always holds: the answer to a listing has come to its
//! end; one that was cut is a request that failed, so that the store asks again, within the bounds of its own retries.
//! (The store itself asks again only for answers that do not begin, and for the bodies of objects.)

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, Result};

/// Connects to stores whose listings come whole.
#[derive(Debug, Default)]
pub(super) struct WholeListings(ReqwestConnector);

impl HttpConnector for WholeListings {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(Whole(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Whole(HttpClient);

#[async_trait]
impl HttpService for Whole {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let lists = lists(&request);
        let response = self.0.execute(request).await?;
        if !lists {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = body.bytes().await.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// True for a listing: of S3 and GCS, of Azure, of WebDAV.
fn lists(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = query.split('&');
    request.method().as_str() == "PROPFIND" || pairs.any(|pair| pair.starts_with("list-type=") || pair == "comp=list")
}
