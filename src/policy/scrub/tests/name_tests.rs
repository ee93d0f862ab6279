//! Values that their names announce, and values that names alone do not make secret.

use super::*;

/// Whether the value that stands for `@` in `text` is taken out, and nothing else of the text.
fn taken(text: &str, value: &str) -> bool {
    let line = serde_json::json!({ "text": text.replace('@', value) }).to_string();
    let (out, found) = redacted(&scrubber(), &line);
    outside_is_kept(&line, &out, &found);
    serde_json::from_str::<serde_json::Value>(&out).unwrap();
    !out.contains(value)
}

/// Writes a text as Go's `encoding/json` does.
fn go(text: &str) -> String {
    let line = serde_json::json!({ "text": text }).to_string();
    line.replace('&', r"\u0026")
        .replace('<', r"\u003c")
        .replace('>', r"\u003e")
}

#[test]
fn names_behind_the_escapes_of_go_are_names() {
    let scrubber = scrubber();
    let value = "q8Zt3LwPx0VnRk5T7yUa2";
    for text in [
        "https://a.example/c?sv=2022&sp=r&sig=@%3D",
        "https://a.example/?b=1&api_key=@&z=1",
        "https://a.example/?b=1&password=@&z=1",
        "<c><password>@</password></c>",
        "<apiKey>@</apiKey>",
        r#"<add key="a" password="@"/>"#,
    ] {
        let text = text.replace('@', value);
        let nested = go(&serde_json::json!({ "a": text }).to_string());
        for line in [go(&text), nested, go(&go(&text))] {
            let (out, found) = redacted(&scrubber, &line);
            assert!(!out.contains(value), "{out}");
            assert_eq!(found.len(), 1, "{out}");
            outside_is_kept(&line, &out, &found);
            let before: serde_json::Value = serde_json::from_str(&line).unwrap();
            let after: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert_eq!(shape(&before), shape(&after));
            // The ampersand or bracket behind the value is whole.
            assert_eq!(out.matches(r"\u00").count(), line.matches(r"\u00").count());
        }
    }
}

#[test]
fn a_name_may_follow_an_escape_or_a_colon() {
    let value = "q8Zt3LwPx0VnRk5T7yUa2";
    for text in [
        "first\npassword: @",
        "first\n\tapi_key: @",
        "//registry.npmjs.org/:_authToken=@",
        "$env:API_KEY = \"@\"",
        "{:api_key => \"@\"}",
    ] {
        assert!(taken(text, value), "{text}");
    }
    assert!(!taken("AWS::IAM::AccessKey: @", value));
}

#[test]
fn base64_under_a_name_may_have_no_long_run() {
    let value = "NL1FifcLwV+FQMLP3Fn/rWtEP3cmi/vG1I4plBOs";
    for text in [
        "AWS_SECRET_ACCESS_KEY=@",
        "aws_secret_access_key = @",
        "{\"SecretAccessKey\": \"@\"}",
        "AccountName=a;AccountKey=@;EndpointSuffix=x",
    ] {
        assert!(taken(text, value), "{text}");
    }
}

#[test]
fn a_name_and_its_value_may_stand_on_two_lines() {
    let value = "q8Zt3LwPx0VnRk5T7yUa2";
    let pairs = serde_json::json!([{ "name": "API_TOKEN", "value": value }]);
    let pretty = serde_json::to_string_pretty(&pairs).unwrap();
    let nested = serde_json::to_string(&serde_json::json!({ "a": pretty })).unwrap();
    for text in [
        pretty.as_str(),
        &nested,
        &pretty.replace('\n', "\r\n").replace("  ", "\t"),
        "- name: API_TOKEN\n  value: @",
        "- name: \"API_TOKEN\"\n  value: \"@\"\n",
        "- key: API_TOKEN\n  value: @",
    ] {
        assert!(taken(text, value), "{text}");
    }
    for text in [
        "- name: BUILD_HASH\n  value: @",
        "- API_TOKEN\n  value: @",
        "[{\"name\": \"build\",\n \"value\": \"@\"}]",
    ] {
        assert!(!taken(text, value), "{text}");
    }
}

#[test]
fn the_directory_of_a_shell_is_no_password() {
    for text in [
        "PWD=/Users/anna/work/customer-portal-v2",
        "OLDPWD=/home/u/customer-portal-v2/src",
        "{\"pwd\": \"/Users/anna/work/customer-portal-v2\"}",
        "{\"pwd\": \"C:\\\\Users\\\\anna\\\\customer-portal-v2\"}",
        "pwd=~/Work2/x9",
    ] {
        let line = serde_json::json!({ "text": text }).to_string();
        assert_eq!(redacted(&scrubber(), &line).1, [], "{text}");
    }
    assert!(taken("pwd=@", "Zx9kQ2h7Lm4pT8v/x") && taken("{\"pwd\":\"@\"}", "Zx9kQ2h7Lm4pT8v/x"));
}
