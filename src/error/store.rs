//! What object stores say, in a user's words.
//!
//! Enters: an error of a store. Leaves: who answered what, or did not, and what can be done. Always holds: one line, no
//! page of HTML, and no secret.

use std::error::Error as _;

use super::Error;

/// The error of a store that carries none of ours, and none of the system's.
pub(super) fn in_words(error: &object_store::Error) -> Error {
    let text = error.to_string();
    let with_cause = match error.source() {
        Some(cause) if !text.contains(&cause.to_string()) => format!("{text}: {cause}"),
        _ => text,
    };
    of_text(&with_cause)
}

/// The same of a message.
pub(super) fn of_text(text: &str) -> Error {
    if text.contains("Range request not supported") {
        return Error::query("the server gives files as a whole only, and not by ranges")
            .hint("fetch the file first, for example with curl -O; most servers other than Python's know ranges");
    }
    if text.contains("Account must be specified") {
        return Error::query("no storage account is named")
            .hint("set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or another credential of Azure's");
    }
    let Some((_, after)) = text.split_once("Error performing ") else {
        return Error::query(text.lines().next().unwrap_or_default());
    };
    let request = after.trim_start_matches("token request: ").trim_start_matches("Error performing ");
    let url = request.split_whitespace().find(|word| word.contains("://")).unwrap_or_default();
    let host = url.split('?').next().unwrap_or(url);
    let answer = request.rsplit_once(" - ").map_or("", |(_, answer)| answer).lines().next().unwrap_or_default();
    let error = match answer.strip_prefix("Server returned non-2xx status code: ") {
        Some(status) => Error::query(format!("{host} answers {}", status.split(": ").next().unwrap_or(status))),
        None => {
            let cause = answer.rsplit(": ").next().unwrap_or(answer);
            Error::query(format!("{host} does not answer: {}", cause.to_lowercase()))
        }
    };
    let refused =
        ["401", "403", "token request", "metadata"].iter().any(|word| answer.contains(word) || after.contains(word));
    if !refused {
        return error;
    }
    error.hint(
        "credentials come from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_SERVICE_ACCOUNT, or \
         AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_one_line() {
        for (text, ours) in [
            (
                "Generic HTTP error: Error performing HEAD http://127.0.0.1:1/x.csv in 1.6s, after 10 retries, max_retries: 10, \
                 retry_timeout: 180s  - HTTP error: error sending request: Connection refused",
                "http://127.0.0.1:1/x.csv does not answer: connection refused",
            ),
            (
                "Error performing GET http://host/x?list-type=2 in 2ms - Server returned non-2xx status code: 501 Not \
                 Implemented: <!DOCTYPE HTML>\n<html>",
                "http://host/x answers 501 Not Implemented",
            ),
        ] {
            assert_eq!(of_text(text).message, ours);
        }
        let refused = "Error performing token request: Error performing GET http://169.254.169.254/token in 2ms - Server \
                       returned non-2xx status code: 403 Forbidden: denied";
        assert!(of_text(refused).hint.is_some_and(|hint| hint.contains("GOOGLE_SERVICE_ACCOUNT")));
    }
}
