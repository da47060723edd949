use super::*;
use std::os::unix::fs::PermissionsExt as _;

const NOW: u64 = 1_800_000_000;

fn request() -> TokenRequest {
    let object = |name: &str| ObjectClaim { name: name.into(), uid: format!("uid-{name}") };
    TokenRequest {
        namespace: "ns".into(),
        service_account: object("my-sa"),
        audiences: Vec::new(),
        life: DEFAULT_LIFE,
        pod: Some(object("web")),
        secret: None,
        node: Some(object("node1")),
    }
}

fn issuer() -> (tempfile::TempDir, Issuer) {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::open(&dir.path().join("identity"), DEFAULT_ISSUER).unwrap();
    (dir, issuer)
}

/// VO29
#[test]
fn a_token_says_who_has_it_in_the_api_server_s_words() {
    let (_dir, issuer) = issuer();
    let token = issuer.mint(&request(), NOW).unwrap();
    let verified = issuer.verify(&token.text, &[], NOW + 1, |_| true).unwrap();
    assert_eq!(verified.username(), "system:serviceaccount:ns:my-sa");
    assert_eq!(verified.groups(), ["system:serviceaccounts", "system:serviceaccounts:ns"]);
    let mut claims = serde_json::to_value(&verified.claims).unwrap();
    claims["jti"] = Value::Null;
    let expected = json!({
        "aud": [DEFAULT_ISSUER], "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "iss": DEFAULT_ISSUER, "jti": null,
        "sub": "system:serviceaccount:ns:my-sa",
        "kubernetes.io": {
            "namespace": "ns", "node": {"name": "node1", "uid": "uid-node1"},
            "pod": {"name": "web", "uid": "uid-web"}, "serviceaccount": {"name": "my-sa", "uid": "uid-my-sa"},
        },
    });
    assert_eq!(claims, expected);
}

#[test]
fn a_token_is_good_for_its_time_its_audience_and_its_pod() {
    let (_dir, issuer) = issuer();
    let (_other_dir, other) = self::issuer();
    let token = issuer.mint(&request(), NOW).unwrap().text;
    let audience = |name: &str| vec![name.to_owned()];
    let at = |now| issuer.verify(&token, &[], now, |_| true).err();
    assert_eq!(at(NOW + 3599), None);
    assert_eq!(at(NOW + 3600 + LEEWAY_SECONDS), Some(VerifyError::Expired));
    assert_eq!(at(NOW - LEEWAY_SECONDS - 1), Some(VerifyError::NotYet));
    let refused = issuer.verify(&token, &audience("vault"), NOW, |_| true).unwrap_err();
    assert!(matches!(refused, VerifyError::Audience { .. }), "{refused}");
    let for_vault = issuer.mint(&TokenRequest { audiences: audience("vault"), ..request() }, NOW).unwrap().text;
    assert_eq!(issuer.verify(&for_vault, &audience("vault"), NOW, |_| true).unwrap().audiences, ["vault"]);
    assert!(issuer.verify(&for_vault, &[], NOW, |_| true).is_err());
    let gone = issuer.verify(&token, &[], NOW, |bound| !matches!(bound, Bound::Pod { .. })).unwrap_err();
    assert_eq!(gone, VerifyError::Gone("pod ns/web".into()));
    assert!(matches!(other.verify(&token, &[], NOW, |_| true), Err(VerifyError::Invalid(_))));
}

/// A token whose header asks for another algorithm, or whose content was changed, is not looked at.
#[test]
fn a_changed_token_is_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let (_dir, issuer) = issuer();
    let token = issuer.mint(&request(), NOW).unwrap().text;
    let parts: Vec<&str> = token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let hs256 = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let admin = URL_SAFE_NO_PAD.encode(claims.replace("my-sa", "admin"));
    for changed in [
        format!("{none}.{}.", parts[1]),
        format!("{hs256}.{}.{}", parts[1], parts[2]),
        format!("{}.{admin}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        String::new(),
        "a.b.c".to_owned(),
    ] {
        let refused = issuer.verify(&changed, &[], NOW, |_| true).unwrap_err();
        assert!(matches!(refused, VerifyError::Invalid(_)), "{changed}: {refused}");
    }
}

/// VO29
#[test]
fn life_has_limits_and_a_token_is_replaced_before_its_end() {
    let (_dir, issuer) = issuer();
    let of = |seconds| issuer.mint(&TokenRequest { life: Duration::from_secs(seconds), ..request() }, NOW);
    assert_eq!(of(599).unwrap_err(), MintError::TooShort);
    assert_eq!(of((1 << 32) + 1).unwrap_err(), MintError::TooLong);
    for (life, refresh) in [(600, 480), (3600, 2880), (1 << 32, 86_400)] {
        assert_eq!(of(life).unwrap().refresh_at(), NOW + refresh, "{life}");
    }
    // The clock was set back.
    let token = of(600).unwrap();
    let (early, late) = (NOW - LEEWAY_SECONDS - 1, NOW - LEEWAY_SECONDS);
    assert!(token.is_not_yet_valid(early) && !token.is_not_yet_valid(late));
    let taken = |now| issuer.verify(&token.text, &[], now, |_| true);
    assert_eq!(taken(early).unwrap_err(), VerifyError::NotYet);
    taken(late).unwrap();
}

#[test]
fn a_key_is_made_once_and_for_root_alone() {
    let (dir, first) = issuer();
    let dir = dir.path().join("identity");
    let token = first.mint(&request(), NOW).unwrap().text;
    let again = Issuer::open(&dir, DEFAULT_ISSUER).unwrap();
    again.verify(&token, &[], NOW, |_| true).unwrap();
    let files: Vec<_> = dir.read_dir().unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(files[0].path(), "nonsense").unwrap();
    let other = Issuer::open(&dir, DEFAULT_ISSUER).unwrap();
    other.verify(&token, &[], NOW, |_| true).unwrap_err();
    assert_eq!(std::fs::read(dir.join("service-account.p8.damaged")).unwrap(), b"nonsense");
}

/// What another program verifies tokens with.
#[test]
fn the_published_key_verifies_tokens() {
    let (_dir, issuer) = issuer();
    let token = issuer.mint(&request(), NOW).unwrap().text;
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(issuer.jwks()).unwrap();
    let id = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(set.find(&id).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    jsonwebtoken::decode::<Claims>(&token, &key, &validation).unwrap();
    let configuration = issuer.openid_configuration("https://127.0.0.1:6443/");
    assert_eq!(configuration["jwks_uri"], "https://127.0.0.1:6443/openid/v1/jwks");
}
