"""One URL, from the list to its page: through redirects, each of them checked like the first step.

Cookies live for the redirects of one visit, because some sites send a reader without them in circles; no visit sees
those of another, so a page does not depend on earlier ones.
"""

from typing import NamedTuple

from crawler import outcomes, robots, sniff, urls
from crawler.hosts import Hosts, RobotsError, retry_after
from crawler.network import Evidence, evidence_needed
from crawler.transport import REDIRECTS, Answer, RequestError
from crawler.urls import BlockList


class Rules(NamedTuple):
    """What holds for every visit. agent: our product name as robots.txt files spell it."""

    agent: str
    blocked: BlockList
    max_redirects: int = 10
    respect_noai: bool = False


class PageFetcher(NamedTuple):
    """The result of a visit.

    url: where redirects ended. answer: of a page. retry_after: seconds, as the server asks. unreached: what would show
    that a failure is not the network's fault.
    """

    outcome: str
    url: str
    answer: Answer | None = None
    status: int = 0
    received_bytes: int = 0
    detail: str = ""
    retry_after: float | None = None
    by_robots: bool = False
    unreached: Evidence = Evidence.NONE


async def visit(url: str, *, hosts: Hosts, rules: Rules) -> PageFetcher:
    """Fetches a cleaned URL once, without retries."""
    cookies = _Cookies()
    seen = set()
    received = 0
    for _ in range(rules.max_redirects + 1):
        try:
            if not (await hosts.rules(url, agent=rules.agent)).allows(url):
                return PageFetcher(outcomes.FORBIDDEN, url, received_bytes=received)
            step = (url, cookies.header(url))
            if step in seen:
                return PageFetcher(outcomes.REDIRECT_LOOP, url, received_bytes=received)
            seen.add(step)
            answer = await hosts.get(url, cookies=step[1])
        except RobotsError as error:
            return PageFetcher(
                error.outcome, url, received_bytes=received, detail=error.detail, retry_after=error.retry_after,
                by_robots=True, unreached=error.unreached,
            )  # fmt: skip
        except RequestError as error:
            return PageFetcher(
                error.outcome, url, received_bytes=received + error.received_bytes, detail=error.detail,
                unreached=evidence_needed(error),
            )  # fmt: skip
        received += answer.received_bytes
        if answer.status not in REDIRECTS:
            outcome = _judge(answer, rules=rules)
            page = answer if outcome == outcomes.FETCHED else None
            return PageFetcher(outcome, url, page, answer.status, received, retry_after=retry_after(answer))
        cookies.learn(url, answer)
        target = urls.join(url, answer.header("location")) if answer.header("location") else None
        if target is None or rules.blocked.blocks(target):
            outcome = outcomes.BAD_REDIRECT if target is None else outcomes.BLOCKED
            return PageFetcher(outcome, url, status=answer.status, received_bytes=received)
        url = target
    return PageFetcher(outcomes.TOO_MANY_REDIRECTS, url, received_bytes=received)


def _judge(answer: Answer, *, rules: Rules) -> str:
    """The outcome of an answer that is no redirect."""
    if answer.status == 200:
        if not answer.body.strip():
            return outcomes.EMPTY
        if not sniff.is_text(answer.body, answer.header("content-type")):
            return outcomes.WRONG_TYPE
        headers = {name.lower(): answer.header(name.lower()) for name, _ in answer.headers}
        if rules.respect_noai and robots.refuses_ai(headers, answer.body, agent=rules.agent):
            return outcomes.NO_AI
        return outcomes.FETCHED
    if answer.status in (404, 410):
        return outcomes.NOT_FOUND
    if answer.status == 429:
        return outcomes.RATE_LIMITED
    if answer.status in (408, 425):
        return outcomes.TIMED_OUT
    if answer.status >= 500:
        return outcomes.SERVER_ERROR
    return outcomes.EMPTY if answer.status < 300 else outcomes.REFUSED


class _Cookies:
    """What the servers of one chain of redirects have set."""

    def __init__(self) -> None:
        import httpx

        self._jar = httpx.Cookies()

    def learn(self, url: str, answer: Answer) -> None:
        if answer.header("set-cookie"):
            import httpx

            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
            response = httpx.Response(answer.status, headers=headers, request=httpx.Request("GET", url))
            response.headers.encoding = "latin-1"
            self._jar.extract_cookies(response)

    def header(self, url: str) -> str:
        if not self._jar:
            return ""
        import httpx

        request = httpx.Request("GET", url)
        request.headers.encoding = "latin-1"
        self._jar.set_cookie_header(request)
        return request.headers.get("cookie", "")
