//! Who asks: bearer tokens and basic authentication, compared in constant time. The one home of `subtle`.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::answer::Problem;
use crate::endpoints::Auth;
use crate::model::secret::fresh;

/// The name of the caller.
///
/// # Errors
/// 401: no such caller. What is compared and how long that takes tells nothing of the secrets: hashes are compared, with
/// every one that there is.
pub(super) fn caller(auth: &Auth, headers: &HeaderMap) -> Result<String, Problem> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, rest) = given.split_once(' ').unwrap_or((given, ""));
    let found = if scheme.eq_ignore_ascii_case("bearer") {
        let given = digest(&["bearer", rest.trim()]);
        let all = auth.bearer.iter().map(|(name, token)| (name, digest(&["bearer", &fresh(token)])));
        find(all, &given)
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.unwrap_or_default();
        let (user, password) = decoded.split_once(':').unwrap_or_default();
        let given = digest(&["basic", user, password]);
        let all = auth.basic.iter().map(|(user, secret)| (user, digest(&["basic", user, &fresh(secret)])));
        find(all, &given)
    } else {
        None
    };
    found.ok_or_else(|| {
        let mut problem = Problem::new(StatusCode::UNAUTHORIZED, "no such caller: see WWW-Authenticate");
        if !auth.bearer.is_empty() {
            problem = problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if !auth.basic.is_empty() {
            let basic = HeaderValue::from_static("Basic realm=\"slackwater\", charset=\"UTF-8\"");
            problem = problem.header(header::WWW_AUTHENTICATE, basic);
        }
        problem
    })
}

/// The last of those whose digest is that one; looks at all of them.
fn find<'a>(all: impl Iterator<Item = (&'a String, [u8; 32])>, given: &[u8; 32]) -> Option<String> {
    let mut found = None;
    for (name, digest) in all {
        let same: Choice = digest.ct_eq(given);
        if bool::from(same) {
            found = Some(name.clone());
        }
    }
    found
}

/// The SHA-256 of the parts, each with its length before it.
pub(super) fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_token_or_password() {
        let by = |name: &str, secret: &str| [(name.to_owned(), secret.into())].into_iter().collect();
        let auth = Auth { bearer: by("ci", "tok-1"), basic: by("ann", "pa:ss") };
        let asks = |value: Option<String>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, HeaderValue::try_from(value).expect("a value"));
            }
            caller(&auth, &headers).map_err(|problem| problem.headers.len())
        };
        let basic = |text: &str| Some(format!("Basic {}", STANDARD.encode(text)));
        assert_eq!(asks(Some("Bearer tok-1".into())).as_deref(), Ok("ci"));
        assert_eq!(asks(Some("bearer  tok-1".into())).as_deref(), Ok("ci"));
        assert_eq!(asks(basic("ann:pa:ss")).as_deref(), Ok("ann"));
        for wrong in [
            None,
            Some("Bearer tok-2".into()),
            Some("Bearer ".into()),
            Some("tok-1".into()),
            Some("Basic !".into()),
            basic("ann:tok-1"),
            basic("ci:tok-1"),
            basic("annpa:ss"),
            basic(""),
        ] {
            assert_eq!(asks(wrong.clone()), Err(2), "{wrong:?}");
        }
    }
}
