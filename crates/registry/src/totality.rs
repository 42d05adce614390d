//! Whatever a registry, a proxy or a file says, nothing panics: every parser of such text, with text of all kinds.

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Uri};
use proptest::prelude::*;

use crate::challenge::parse_challenges;
use crate::connect::status;
use crate::endpoint::{is_loopback, join, split_port};
use crate::network::{Network, address};
use crate::proxy::Proxies;
use crate::retry::retry_after;
use crate::settings::Settings;
use crate::transfer::parse_range;

/// Pieces of what is really said, so that the parsers come further than to the first character.
fn text() -> impl Strategy<Value = String> {
    let words = [
        "Bearer ",
        "Basic ",
        "realm=",
        "\"",
        "\\",
        ",",
        "=",
        "bytes ",
        "0-9",
        "/",
        "*",
        "10",
        "18446744073709551615",
        "-1",
        "Sun, 06 Nov 1994 ",
        "08:49:37",
        " GMT",
        "00 Feb ",
        "9999",
        "http://",
        "https://",
        "//",
        "host",
        ":",
        "[::1]",
        "]",
        "[",
        "@",
        "%41",
        "%",
        "é",
        "#",
        "?",
        "..",
        " ",
        "127.0.0.1",
        "10.0.0.0/8",
        "fd00::/8",
        "HTTP/1.",
        "1 200",
        "\r\n",
        "{\"mirrors\":",
        "}",
    ];
    let word = prop_oneof![
        4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(text in text()) {
        if let Ok(value) = HeaderValue::from_str(&text) {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value.clone()), (RETRY_AFTER, value)]);
            parse_challenges(&headers);
            retry_after(&headers);
        }
        parse_range(&text);
        status(text.as_bytes());
        split_port(&text);
        is_loopback(&text);
        address(&text);
        Network::parse(&text);
        let base: Uri = "https://a.example/v2/x/blobs/y".parse().unwrap();
        let target = join(&base, &text).or_else(|| text.parse().ok());
        let proxies = Proxies::from_variables(|_| Some(text.clone()));
        let proxies = [proxies, Proxies::from_variables(|name| (name != "REQUEST_METHOD").then(|| text.clone()))];
        let settings = Settings::parse("/x".as_ref(), text.as_bytes());
        for target in target.iter().chain([&base]) {
            for proxies in &proxies {
                if let Some(proxy) = proxies.of(target) {
                    let _ = proxy.uri();
                }
            }
            if let Ok(settings) = &settings {
                settings.allows(target);
            }
        }
        let list = serde_json::json!({"registry-mirrors": [text], "insecure-registries": [text]});
        let _ = Settings::parse("/x".as_ref(), list.to_string().as_bytes());
    }
}
