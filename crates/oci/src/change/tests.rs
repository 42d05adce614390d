//! Oracle: what `docker commit --change` of Docker 28 and its Dockerfile reference make of the same lines.

use super::*;
use serde_json::json;

fn changed(lines: &[&str]) -> Result<serde_json::Value, String> {
    let mut config = ContainerConfig {
        env: vec!["PATH=/bin".to_owned(), "HOME=/root".to_owned()],
        cmd: vec!["old".to_owned()],
        working_dir: "/srv".to_owned(),
        ..ContainerConfig::default()
    };
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    change(&mut config, &lines).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(config).unwrap())
}

#[test]
fn instructions() {
    let check = |lines: &[&str], field: &str, expect: serde_json::Value| {
        let config = changed(lines).unwrap_or_else(|error| panic!("{lines:?}: {error}"));
        let got = config.get(field).cloned().unwrap_or_default();
        assert_eq!(got, expect, "{lines:?}");
    };
    check(
        &["CMD echo $HOME"],
        "Cmd",
        json!(["/bin/sh", "-c", "echo $HOME"]),
    );
    check(&[r#"cmd ["a", "b c"]"#], "Cmd", json!(["a", "b c"]));
    check(&["CMD"], "Cmd", json!(null));
    check(&["CMD [a"], "Cmd", json!(["/bin/sh", "-c", "[a"]));
    check(&[r#"ENTRYPOINT ["e"]"#], "Entrypoint", json!(["e"]));
    check(&[r#"ENTRYPOINT ["e"]"#], "Cmd", json!(null));
    check(
        &[r#"CMD ["c"]"#, r#"ENTRYPOINT ["e"]"#],
        "Cmd",
        json!(["c"]),
    );
    let env = |more: &[&str]| {
        let mut env = vec!["PATH=/bin", "HOME=/root"];
        env.extend(more);
        json!(env)
    };
    check(
        &["ENV A=1 B='two words' C=\"x y\" D=a\\ b"],
        "Env",
        env(&["A=1", "B=two words", "C=x y", "D=a b"]),
    );
    check(&["ENV A some words"], "Env", env(&["A=some words"]));
    check(
        &["ENV PATH=$PATH:/more"],
        "Env",
        json!(["PATH=/bin:/more", "HOME=/root"]),
    );
    check(
        &["ENV A=${NONE:-x}${HOME:+y}\\$HOME '$B'='$C'"],
        "Env",
        env(&["A=xy$HOME", "$B=$C"]),
    );
    check(
        &["LABEL a=b \"c d\"=\"e f\"", "LABEL a=c"],
        "Labels",
        json!({"a": "c", "c d": "e f"}),
    );
    check(
        &["EXPOSE 80 53/udp 8000-8001"],
        "ExposedPorts",
        json!({"53/udp": {}, "80/tcp": {}, "8000/tcp": {}, "8001/tcp": {}}),
    );
    check(
        &["VOLUME /a /b", r#"VOLUME ["/c d"]"#],
        "Volumes",
        json!({"/a": {}, "/b": {}, "/c d": {}}),
    );
    check(&["USER www:$NONE"], "User", json!("www:"));
    check(&["WORKDIR app/../lib"], "WorkingDir", json!("/srv/lib"));
    check(
        &["WORKDIR /", "WORKDIR $HOME/./x"],
        "WorkingDir",
        json!("/root/x"),
    );
    check(&["STOPSIGNAL SIGQUIT"], "StopSignal", json!("SIGQUIT"));
    check(
        &["HEALTHCHECK NONE"],
        "Healthcheck",
        json!({"Test": ["NONE"]}),
    );
    check(
        &["HEALTHCHECK --interval=1m30s --retries=2 --timeout=500ms CMD curl -f localhost"],
        "Healthcheck",
        json!({"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 90_000_000_000_i64, "Timeout": 500_000_000, "Retries": 2}),
    );
    check(
        &[r#"HEALTHCHECK CMD ["true"]"#],
        "Healthcheck",
        json!({"Test": ["CMD", "true"]}),
    );
    check(
        &["ONBUILD RUN a", "ONBUILD COPY . /"],
        "OnBuild",
        json!(["RUN a", "COPY . /"]),
    );
}

#[test]
fn what_is_wrong_is_said() {
    let check = |line: &str, expect: &str| {
        let error = changed(&[line]).unwrap_err();
        assert!(error.starts_with(expect), "{line}: {error}");
    };
    check("", "an instruction is empty");
    check("RUN x", "RUN is no instruction");
    check("USER", "USER: it needs an argument");
    check("ENV A", "ENV: \"A\" has no value");
    check("ENV A=1 B", "ENV: \"B\" has no value");
    check("ENV =1", "ENV: \"=1\" has no name");
    check(
        "LABEL a=\"b",
        "LABEL: \"a=\\\"b\" has a quote without its end",
    );
    check("EXPOSE http", "EXPOSE: \"http\" is no port");
    check("EXPOSE 9-8", "EXPOSE: \"9-8\" is no port");
    check("EXPOSE 80/icmp", "EXPOSE: \"80/icmp\" is no port");
    check("CMD [1]", "CMD: 1 is no text");
    check("WORKDIR ${X", "WORKDIR: \"${X\" has no closing brace");
    check(
        "HEALTHCHECK true",
        "HEALTHCHECK: \"true\" is neither CMD nor NONE",
    );
    check(
        "HEALTHCHECK --interval=1us CMD x",
        "HEALTHCHECK: --interval: \"1us\" is no duration",
    );
    check(
        "HEALTHCHECK --often CMD x",
        "HEALTHCHECK: --often has no value",
    );
    check("ONBUILD FROM x", "ONBUILD: FROM is not allowed");
}

proptest::proptest! {
    #[test]
    fn any_text_is_followed_or_refused(name in "(?i)(cmd|env|label|expose|user|volume|workdir|healthcheck)", rest in "\\PC{0,40}") {
        let _ = changed(&[&format!("{name} {rest}")]);
        let _ = changed(&[&rest]);
    }
}
