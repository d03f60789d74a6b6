"""The Alexa skill with a local certificate authority: rejected requests, conversation state, and responses."""

import asyncio
import base64
import datetime
import json
import logging
from dataclasses import dataclass, field
from functools import partial

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")
pytest.importorskip("cryptography", reason="no cryptography; pip install -r requirements-serve.txt")

import httpx
from conftest import ROOT
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fastapi import FastAPI

from serving import alexa, alexa_signature
from serving.alexa import AlexaConfig

SKILL = "amzn1.ask.skill.one"
URL = "https://s3.amazonaws.com/echo.api/echo-api-cert-1.pem"
NOW = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
NAME = "echo-api.amazon.com"


@dataclass
class Certified:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def usage_of(*, is_authority: bool) -> x509.KeyUsage:
    names = ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["encipher_only", "decipher_only"]
    signs = {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    return x509.KeyUsage(**signs, **dict.fromkeys(names, False))


def certified(
    name: str,
    issuer: Certified | None = None,
    *,
    san: list[str] | None = None,
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + 2 * DAY,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> Certified:
    """Issues a certificate: for an authority, or with `san` for a server."""
    key = key or rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    parent = issuer.certificate.subject if issuer else subject
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder(parent, subject, key.public_key(), x509.random_serial_number(), start, end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=san is None, path_length=None), critical=True)
        .add_extension(usage_of(is_authority=san is None), critical=True)
    )
    if san is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in san]), critical=False)
    return Certified(builder.sign(signer, hashes.SHA256()), key)


@dataclass
class Amazon:
    """A certificate authority that stands in for Amazon's."""

    root: Certified = field(default_factory=lambda: certified("root"))
    chains: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.middle = certified("middle", self.root)
        self.leaf = certified("leaf", self.middle, san=[NAME])
        self.publish(URL, self.leaf)

    def publish(self, url: str, *chain: Certified, rest: bool = True) -> None:
        self.chains[url] = b"".join(each.pem for each in [*chain, *([self.middle] if rest else [])])

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        await asyncio.sleep(0)
        if url not in self.chains:
            raise alexa_signature.Refused("no such chain")
        return self.chains[url]

    def sign(self, body: bytes, key: rsa.RSAPrivateKey | None = None) -> str:
        return base64.b64encode((key or self.leaf.key).sign(body, padding.PKCS1v15(), hashes.SHA256())).decode()


@pytest.fixture(scope="module")
def authority() -> Amazon:
    return Amazon()


class Answers:
    """A model that echoes its prompt or returns a scripted response."""

    def __init__(self):
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []
        self.pieces: list[str] | None = None
        self.stays_silent = False
        self.error: Exception | None = None
        self.closed = 0

    async def reply(self, model, conversation):
        self.asked.append((model, [tuple(turn) for turn in conversation]))
        try:
            for piece in self.pieces or [f"You said {conversation[-1].text}."]:
                yield piece
            if self.error:
                raise self.error
            if self.stays_silent:
                await asyncio.Event().wait()
        finally:
            self.closed += 1


class Endpoint:
    """The skill's router, called over ASGI."""

    def __init__(self, authority: Amazon, **settings):
        self.authority, self.model, self.time = authority, Answers(), NOW.timestamp()
        authority.fetched.clear()
        app = FastAPI()
        self.verifier = alexa_signature.Verifier(
            roots=[authority.root.certificate], fetch=authority.fetch, now=lambda: self.time
        )
        config = AlexaConfig(**{"skills": {SKILL: "bot"}, **settings})
        router = alexa.router(
            config, self.model.reply, clean=lambda model, text: text.replace("#", f"<{model}>"), now=lambda: self.time,
            failures=(LookupError,), verifier=self.verifier,
        )  # fmt: skip
        app.include_router(router)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")

    async def post(self, body: bytes | dict, headers: dict | None = None, *, url: str = URL, signature=None):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signed = {"SignatureCertChainUrl": url, "Signature-256": signature or self.authority.sign(raw)}
        return await self._client.post("/alexa", content=raw, headers=signed if headers is None else headers)

    def ask(self, body: bytes | dict, headers: dict | None = None, **more) -> httpx.Response:
        return asyncio.run(self.post(body, headers, **more))


@pytest.fixture
def endpoint(authority) -> Endpoint:
    return Endpoint(authority)


def request(kind: str = "LaunchRequest", *, session: str = "s1", time: datetime.datetime = NOW, skill=SKILL, **more):
    application = {"application": {"applicationId": skill}}
    return {
        "version": "1.0",
        "session": {"new": True, "sessionId": session, "attributes": {}, "user": {"userId": "u"}, **application},
        "context": {"System": {**application, "user": {"userId": "u"}, "apiEndpoint": "https://api.amazonalexa.com"}},
        "request": {"type": kind, "requestId": "r", "timestamp": time.isoformat(), "locale": "en-US", **more},
    }


def intent(name: str, words: str | None = None, **more):
    slots = {"words": {"name": "words", "value": words, "confirmationStatus": "NONE"}}
    if words is None:
        del slots["words"]["value"]
    return request("IntentRequest", intent={"name": name, "confirmationStatus": "NONE", "slots": slots}, **more)


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["response"]["outputSpeech"]["text"]


def refusal(endpoint: Endpoint, caplog, body, headers: dict | None = None, **more) -> str:
    """Returns the single log message of a rejected request."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "serving.alexa"):
        response = endpoint.ask(body, headers, **more)
    assert (response.status_code, response.content) == (400, b"")
    assert endpoint.model.asked == []
    [line] = [record.getMessage() for record in caplog.records if record.name == "serving.alexa"]
    return line


def test_a_conversation(endpoint):
    launch = endpoint.ask(request()).json()
    assert launch["version"] == "1.0"
    assert launch["response"]["shouldEndSession"] is False
    assert launch["response"]["reprompt"]["outputSpeech"]["type"] == "PlainText"
    assert said(endpoint.ask(intent("AskIntent", "tell me # more"))) == "You said tell me <bot> more."
    assert said(endpoint.ask(intent("WhatIntent", "is the time"))) == "You said what is the time."
    assert said(endpoint.ask(intent("AMAZON.RepeatIntent"))) == "You said what is the time."
    assert endpoint.model.asked[-1] == ("bot", [
        ("user", "tell me # more"), ("assistant", "You said tell me <bot> more."), ("user", "what is the time"),
    ])  # fmt: skip
    yes = request("IntentRequest", intent={"name": "AMAZON.YesIntent", "confirmationStatus": "NONE"})
    assert said(endpoint.ask(yes)) == "You said yes."
    end = endpoint.ask(intent("AMAZON.StopIntent")).json()["response"]
    assert (end["outputSpeech"]["text"], end["shouldEndSession"]) == ("Goodbye.", True)
    endpoint.ask(intent("AskIntent", "hello"))
    assert endpoint.model.asked[-1] == ("bot", [("user", "hello")])
    assert endpoint.authority.fetched == [URL]


@pytest.mark.parametrize(
    ("name", "words"), [("AMAZON.FallbackIntent", None), ("AskIntent", None), ("WhatIntent", None)]
)
def test_unheard_words_do_not_reach_the_model(endpoint, name, words):
    assert said(endpoint.ask(intent(name, words))).startswith("Sorry")
    assert endpoint.model.asked == []


@pytest.mark.parametrize(
    "kind", ["SessionEndedRequest", "CanFulfillIntentRequest", "AudioPlayer.PlaybackStarted", "SomethingNew"]
)
def test_requests_that_take_no_speech_are_answered_without(endpoint, kind):
    assert endpoint.ask(request(kind, reason="USER_INITIATED")).json() == {"version": "1.0", "response": {}}


def test_the_reason_of_an_error_is_logged(endpoint, caplog):
    body = request("SessionEndedRequest", reason="ERROR", error={"type": "INVALID_RESPONSE", "message": "too long"})
    with caplog.at_level(logging.WARNING, "serving.alexa"):
        endpoint.ask(body)
    assert "too long" in caplog.text


def test_a_session_that_ended_is_forgotten(endpoint):
    endpoint.ask(intent("AskIntent", "one"))
    endpoint.ask(request("SessionEndedRequest", reason="EXCEEDED_MAX_REPROMPTS"))
    endpoint.ask(intent("AskIntent", "two"))
    endpoint.ask(intent("AMAZON.StartOverIntent"))
    endpoint.ask(intent("AskIntent", "three"))
    assert [len(conversation) for _, conversation in endpoint.model.asked] == [1, 1, 1]


def ask_skill(skill: alexa.Skill, words: str, session: str = "s1"):
    envelope = alexa.Envelope.model_validate_json(json.dumps(intent("AskIntent", words, session=session)))

    async def ask():
        return await skill.answer(envelope, asyncio.get_running_loop().time() + 60)

    return asyncio.run(ask())


def test_memory_is_bounded_and_expires():
    model, now = Answers(), [0.0]
    config = AlexaConfig(skills={SKILL: "bot"}, turns=2, sessions=3, session_seconds=100)
    skill = alexa.Skill(config, model.reply, clock=lambda: now[0])
    for words in "abcd":
        ask_skill(skill, words)
    assert [text for _, text in model.asked[-1][1]] == ["b", "You said b.", "c", "You said c.", "d"]
    for number in range(10):
        ask_skill(skill, "x", session=f"other {number}")
    assert len(skill) == 3
    ask_skill(skill, "first again")
    assert len(model.asked[-1][1]) == 1
    now[0] = 99
    ask_skill(skill, "second")
    now[0] = 199
    ask_skill(skill, "third")
    assert len(model.asked[-1][1]) == 5
    assert len(skill) == 1
    now[0] = 300
    ask_skill(skill, "long after")
    assert len(model.asked[-1][1]) == 1


def test_two_skills_have_their_own_models_and_sessions(authority):
    endpoint = Endpoint(authority, skills={SKILL: "bot", "amzn1.ask.skill.two": "other"})
    endpoint.ask(intent("AskIntent", "a"))
    endpoint.ask(intent("AskIntent", "b", skill="amzn1.ask.skill.two"))
    assert [(model, len(turns)) for model, turns in endpoint.model.asked] == [("bot", 1), ("other", 1)]


def test_a_late_answer_is_said_as_far_as_it_came(authority):
    endpoint = Endpoint(authority, seconds=0.05)
    endpoint.model.stays_silent = True
    endpoint.model.pieces = ["It is. It is 5.5 m", " and ", "th"]
    assert said(endpoint.ask(intent("AskIntent", "how long"))) == "It is."
    endpoint.model.pieces = ["no sentence y", "et"]
    assert said(endpoint.ask(intent("AskIntent", "how long"))) == "no sentence"
    endpoint.model.pieces = [""]
    assert said(endpoint.ask(intent("AskIntent", "how long"))).startswith("I need a little longer")
    assert endpoint.model.closed == 3
    assert len(endpoint.model.asked[-1][1]) == 5


def test_a_model_that_cannot_answer_leaves_a_spoken_apology(endpoint, caplog):
    endpoint.model.pieces, endpoint.model.error = [""], LookupError("the model is being loaded")
    with caplog.at_level(logging.WARNING, "serving.alexa"):
        assert said(endpoint.ask(intent("AskIntent", "hello"))).startswith("I need a little longer")
    assert "being loaded" in caplog.text


def test_long_answers_are_cut_at_a_sentence(authority):
    endpoint = Endpoint(authority, characters=60)
    endpoint.model.pieces = ["One two three. "] * 1000
    assert said(endpoint.ask(intent("AskIntent", "count"))) == " ".join(["One two three."] * 4)
    assert endpoint.model.closed == 1
    assert alexa.speakable("word " * 20, 52) == " ".join(["word"] * 10)
    assert alexa.speakable("x" * 100, 60) == "x" * 60
    assert len(json.dumps(alexa.speakable("\U0001f642" * 7500, 7500), ensure_ascii=False).encode()) < 24_000
    assert alexa.speakable("a\x00b\n\u2028 c\ud800", 60) == "a b c"


def test_requests_without_proof_are_refused(endpoint, caplog):
    body = json.dumps(request()).encode()
    good = endpoint.authority.sign(body)
    assert "two headers" in refusal(endpoint, caplog, body, {})
    assert "two headers" in refusal(endpoint, caplog, body, {"SignatureCertChainUrl": URL, "Signature": good})
    assert "two headers" in refusal(endpoint, caplog, body, {"Signature-256": good})
    assert "too long" in refusal(endpoint, caplog, body, {"SignatureCertChainUrl": "", "Signature-256": good})
    assert "base64" in refusal(endpoint, caplog, body, signature="!!!!")
    assert "base64" in refusal(endpoint, caplog, body, signature="abc")
    assert "size" in refusal(endpoint, caplog, body, signature="AAAA")
    other = endpoint.authority.sign(body.replace(b"LaunchRequest", b"IntentRequest"))
    assert "not of this body" in refusal(endpoint, caplog, body, signature=other)
    stranger = endpoint.authority.sign(body, rsa.generate_private_key(65537, 2048))
    assert "not of this body" in refusal(endpoint, caplog, body, signature=stranger)
    old = endpoint.authority.leaf.key.sign(body, padding.PKCS1v15(), hashes.SHA1())
    assert "not of this body" in refusal(endpoint, caplog, body, signature=base64.b64encode(old).decode())


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"{", b"\xff", b"[" * 5000, b'{"request": 1}'])
def test_bodies_that_are_no_requests_are_refused(endpoint, caplog, body):
    assert "not a request of Alexa's" in refusal(endpoint, caplog, body)


def test_a_large_body_is_refused(endpoint, caplog):
    assert "too large" in refusal(endpoint, caplog, request(padding="x" * (300 << 10)))


@pytest.mark.parametrize(("seconds", "kind", "is_good"), [
    (0, "LaunchRequest", True), (150, "LaunchRequest", True), (-150, "LaunchRequest", True),
    (151, "LaunchRequest", False), (-151, "LaunchRequest", False), (86400, "LaunchRequest", False),
    (3600, "AlexaSkillEvent.SkillEnabled", True), (3601, "AlexaSkillEvent.SkillEnabled", False),
])  # fmt: skip
def test_only_requests_of_now_are_answered(endpoint, caplog, seconds, kind, is_good):
    body = request(kind, time=NOW - datetime.timedelta(seconds=seconds))
    if is_good:
        assert endpoint.ask(body).status_code == 200
    else:
        assert "timestamp" in refusal(endpoint, caplog, body)
        assert endpoint.authority.fetched == []  # the body is checked first, because it is cheaper


def test_timestamps_without_zone_are_refused(endpoint, caplog):
    assert "not a request" in refusal(endpoint, caplog, request(time=NOW.replace(tzinfo=None)))


def test_other_skills_are_refused(endpoint, caplog):
    assert "application id" in refusal(endpoint, caplog, request(skill="amzn1.ask.skill.two"))
    without = request()
    del without["session"]
    assert endpoint.ask(without).json() == {"version": "1.0", "response": {}}
    without["context"]["System"]["application"]["applicationId"] = "amzn1.ask.skill.two"
    assert "application id" in refusal(endpoint, caplog, without)
    del without["context"]
    assert "application id" in refusal(endpoint, caplog, without)


PLAIN = "https://s3.amazonaws.com/echo.api/echo-api-cert.pem"


@pytest.mark.parametrize("url", [
    PLAIN, "HTTPS://S3.AmazonAWS.com/echo.api/echo-api-cert.pem", PLAIN.replace(".com/", ".com:443/"),
    PLAIN.replace("/echo.api/", "/echo.api/../echo.api/"), PLAIN.replace("/echo.api/", "//echo.api/./"), f"{PLAIN}#x",
])  # fmt: skip
def test_addresses_that_amazon_allows(url):
    assert alexa_signature.chain_url(url) == PLAIN


@pytest.mark.parametrize("url", [
    "http://s3.amazonaws.com/echo.api/echo-api-cert.pem", "https://notamazon.com/echo.api/echo-api-cert.pem",
    "https://s3.amazonaws.com/EcHo.aPi/echo-api-cert.pem", "https://s3.amazonaws.com/invalid.path/echo-api-cert.pem",
    "https://s3.amazonaws.com:563/echo.api/echo-api-cert.pem", "https://s3.amazonaws.com/echo.api/../x.pem",
    "https://s3.amazonaws.com/echo.api", "https://s3.amazonaws.com", "https://s3.amazonaws.com:port/echo.api/x",
    "https://s3.amazonaws.com.example/echo.api/x", "https://s3.amazonaws.com/echo.api/a b", "", "/echo.api/x",
    PLAIN + "x" * 2048,
])  # fmt: skip
def test_addresses_that_it_does_not(url, endpoint, caplog):
    with pytest.raises(alexa_signature.Refused):
        alexa_signature.chain_url(url)
    assert "URL of the certificate chain" in refusal(endpoint, caplog, request(), url=url)
    assert endpoint.authority.fetched == []


def chains(authority: Amazon) -> dict[str, tuple[list[Certified], bool]]:
    """Returns invalid chains by reason: the certificates, and whether to append the intermediate certificate."""
    leaf, middle, key = authority.leaf, authority.middle, authority.leaf.key

    def server(**more) -> Certified:
        return certified("leaf", middle, **{"san": [NAME], "key": key, **more})

    stranger = certified("middle", certified("root"))
    return {
        "not for": ([server(san=["other.amazon.com"])], True),
        "cannot be read (no name)": ([server(san=[])], True),
        "not valid (expired)": ([server(start=NOW - 3 * DAY, end=NOW - DAY)], True),
        "not valid (not yet)": ([server(start=NOW + DAY)], True),
        "not valid (for clients)": ([server(usage=ExtendedKeyUsageOID.CLIENT_AUTH)], True),
        "not valid (signed by itself)": ([certified("leaf", san=[NAME], key=key)], True),
        "not valid (another root)": ([certified("leaf", stranger, san=[NAME], key=key), stranger], False),
        "not valid (no middle)": ([leaf], False),
        "not RSA": ([server(key=ec.generate_private_key(ec.SECP256R1()))], True),
        "too long": ([leaf, *[middle] * 10], True),
    }


def test_chains_that_do_not_hold_are_refused(endpoint, caplog, authority):
    for number, (reason, (chain, has_middle)) in enumerate(chains(authority).items()):
        url = f"{PLAIN}{number}"
        authority.publish(url, *chain, rest=has_middle)
        assert reason.partition(" (")[0] in refusal(endpoint, caplog, request(), url=url), reason
        assert authority.fetched.count(url) == 1
    for number, data in enumerate([b"", b"garbage", authority.leaf.pem[:300]]):
        authority.chains[f"{PLAIN}x{number}"] = data
        assert "cannot be read" in refusal(endpoint, caplog, request(), url=f"{PLAIN}x{number}")
    assert "no such chain" in refusal(endpoint, caplog, request(), url=f"{PLAIN}absent")


def test_a_chain_may_end_above_the_trusted_root(endpoint, authority):
    """Amazon's chains end in cross-signed roots whose issuers are no longer trusted."""
    older = certified("older root")
    crossed = certified("root", older, key=authority.root.key)
    authority.publish(f"{PLAIN}crossed", authority.leaf, authority.middle, crossed, older, rest=False)
    authority.publish(
        f"{PLAIN}names", certified("x", authority.middle, san=["a.example", NAME], key=authority.leaf.key)
    )
    for url in (f"{PLAIN}crossed", f"{PLAIN}names"):
        assert endpoint.ask(request(), url=url).status_code == 200


def test_certificates_are_kept_while_they_are_valid_and_not_too_many(endpoint, authority, caplog):
    body = request(time=NOW + DAY - datetime.timedelta(seconds=1))
    for _ in range(2):
        assert endpoint.ask(request()).status_code == 200
    assert authority.fetched == [URL]
    endpoint.time += DAY.total_seconds() - 1
    assert endpoint.ask(body).status_code == 200
    assert authority.fetched == [URL]
    endpoint.time += 1
    assert endpoint.ask(body).status_code == 200
    assert authority.fetched == [URL, URL]
    endpoint.time += DAY.total_seconds()  # two days: all certificates have expired
    late = request(time=NOW + 2 * DAY + datetime.timedelta(seconds=1))
    endpoint.time += 1
    assert "not valid now" in refusal(endpoint, caplog, late)
    endpoint.time = NOW.timestamp()
    for number in range(40):
        url = f"{PLAIN}?{number}"
        authority.publish(url, authority.leaf)
        assert endpoint.ask(request(), url=url).status_code == 200
    assert len(endpoint.verifier._signers) == alexa_signature.MAX_CACHED


def test_a_chain_is_downloaded_once_for_many_and_few_at_a_time(endpoint, authority):
    async def burst(urls: list[str]) -> list[int]:
        return [response.status_code for response in await asyncio.gather(*(
            endpoint.post(request(), url=url) for url in urls))]  # fmt: skip

    assert asyncio.run(burst([URL] * 10)) == [200] * 10
    assert authority.fetched == [URL]
    for number in range(10):
        authority.publish(f"{PLAIN}b{number}", authority.leaf)
    statuses = asyncio.run(burst([f"{PLAIN}b{number}" for number in range(10)]))
    assert statuses.count(200) == alexa_signature.MAX_FETCHES
    assert set(statuses) == {200, 400}


def test_downloads_are_limited_and_do_not_follow_redirects(monkeypatch):
    answers = {
        "/good": httpx.Response(200, content=b"chain"),
        "/moved": httpx.Response(302, headers={"location": "https://s3.amazonaws.com/good"}),
        "/large": httpx.Response(200, content=b"x" * (33 << 10)),
    }

    def answer(asked: httpx.Request) -> httpx.Response:
        if asked.url.path == "/refused":
            raise httpx.ConnectError("refused")
        return answers[asked.url.path]

    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **more: client(transport=httpx.MockTransport(answer), **more))
    fetch = alexa_signature.fetch_chain
    assert asyncio.run(fetch("https://s3.amazonaws.com/good")) == b"chain"
    for path, message in {"moved": "status 302", "large": "too large", "refused": "ConnectError"}.items():
        with pytest.raises(alexa_signature.Refused, match=message):
            asyncio.run(fetch(f"https://s3.amazonaws.com/{path}"))


def test_the_default_roots_hold_amazons():
    names = [root.subject.rfc4514_string() for root in alexa_signature.trusted_roots()]
    assert sum("CN=Amazon Root CA" in name for name in names) == 4


@pytest.mark.parametrize("wrong", [{"skills": {}}, {"seconds": 30}, {"characters": 9000}, {"skill": "x"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError):
        AlexaConfig(**{"skills": {SKILL: "bot"}, **wrong})


def test_the_example_skill_and_the_carriers_agree():
    """Follows Amazon's rules for phrases, and does not drop the first word of a question."""
    model = json.loads((ROOT / "examples" / "alexa_skill.json").read_text())["interactionModel"]["languageModel"]
    intents = {each["name"]: each for each in model["intents"]}
    assert set(AlexaConfig(skills={SKILL: "bot"}).carriers) <= set(intents)
    for name in {"CancelIntent", "HelpIntent", "StopIntent", "NavigateHomeIntent", "FallbackIntent"}:
        assert f"AMAZON.{name}" in intents
    phrases = [phrase for each in intents.values() for phrase in each["samples"]]
    assert len(phrases) == len(set(phrases))
    for name, each in intents.items():
        if name.startswith("AMAZON."):
            continue
        assert [slot["type"] for slot in each["slots"]] == ["AMAZON.SearchQuery"]
        for phrase in each["samples"]:
            carrier, _, slot = phrase.rpartition(" ")
            assert (carrier != "", slot) == (True, "{words}")
            assert alexa.CARRIERS.get(name, carrier) == carrier


def test_the_server_answers_with_its_model(authority, monkeypatch):
    """Runs all of serve.py's application: the engine receives the transcript, and a late response frees its slot."""
    from helpers import serving

    verifier = partial(
        alexa_signature.Verifier, roots=[authority.root.certificate], fetch=authority.fetch, now=NOW.timestamp
    )
    monkeypatch.setattr(alexa, "Verifier", verifier)
    sentence = serving.TOKENIZER.encode(" It is late. ")
    ended = [*sentence, serving.TOKENIZER.end_of_text]
    engine = serving.CountingEngine(n_ctx=256, answer=lambda prompt, index: ended[index])
    settings = {"skills": {SKILL: "bot"}, "seconds": 2.5}

    def then_silence(prompt, index):
        engine.seconds = 3600 if index == len(sentence) - 1 else 0
        return sentence[index]

    def ask(client, body):
        raw = json.dumps(body).encode()
        headers = {"SignatureCertChainUrl": URL, "Signature-256": authority.sign(raw)}
        return client.post("/alexa", content=raw, headers=headers)

    bot = serving.loaded("bot", engine, min_p=0.1, repetition_penalty=1.2)
    with serving.serving(serving.Models(bot=bot), alexa=settings) as client:
        now = datetime.datetime.now(datetime.UTC)
        assert said(ask(client, intent("HowIntent", "late is it", time=now))) == "It is late."
        assert said(ask(client, intent("AskIntent", "really", time=now))) == "It is late."
        ids, params = engine.requests[-1]
        assert (params.min_p, params.repetition_penalty) == (0.1, 1.2)
        prompt = serving.TOKENIZER.decode(ids)
        assert prompt.endswith("User: how late is it\nAssistant: It is late.\nUser: really\nAssistant:")
        assert client.post("/alexa", json=intent("AskIntent", "hello", time=now)).status_code == 400
        engine.answer = then_silence
        assert said(ask(client, intent("AskIntent", "slowly", time=now))) == "It is late."
    assert engine.cancelled == 1
