"""What can become of a URL: every URL of the lists ends as exactly one of these, so the counts of a report add up."""

FETCHED = "fetched"
# Decided from the lists alone.
DUPLICATE_URL = "duplicate_url"
INVALID_URL = "invalid_url"
BLOCKED = "blocked"
# Decided by the site's wishes.
FORBIDDEN = "forbidden_by_robots"
ROBOTS_UNREACHABLE = "robots_unreachable"
CRAWL_DELAY = "crawl_delay_too_long"
NO_AI = "no_ai"
# Decided by what came back.
DUPLICATE_PAGE = "duplicate_page"
NOT_FOUND = "not_found"
REFUSED = "refused"
BAD_REDIRECT = "bad_redirect"
REDIRECT_LOOP = "redirect_loop"
TOO_MANY_REDIRECTS = "too_many_redirects"
PRIVATE_ADDRESS = "private_address"
WRONG_TYPE = "wrong_type"
TOO_LARGE = "too_large"
EMPTY = "empty"
BAD_ENCODING = "bad_encoding"
# Given up after retries.
DNS_FAILED = "dns_failed"
CONNECT_FAILED = "connect_failed"
TLS_FAILED = "tls_failed"
TIMED_OUT = "timed_out"
BROKEN = "broken"
RATE_LIMITED = "rate_limited"
SERVER_ERROR = "server_error"
HOST_DOWN = "host_down"

DESCRIPTIONS = {
    FETCHED: "pages in the archives",
    DUPLICATE_URL: "the same URL is earlier in the lists",
    DUPLICATE_PAGE: "another URL of the lists led to the same page",
    INVALID_URL: "no http or https URL",
    BLOCKED: "on a block list, or a file that is no page",
    FORBIDDEN: "robots.txt forbids it",
    ROBOTS_UNREACHABLE: "robots.txt could not be read, which forbids it for now",
    CRAWL_DELAY: "robots.txt asks for a longer delay than --max_crawl_delay",
    NO_AI: "the page asks not to be used or kept (--respect_noai)",
    NOT_FOUND: "404 or 410",
    REFUSED: "another refusal of the server (401, 403, 451, ...)",
    BAD_REDIRECT: "led to something that is no http or https URL",
    REDIRECT_LOOP: "led back to itself",
    TOO_MANY_REDIRECTS: "more redirects than --max_redirects",
    PRIVATE_ADDRESS: "led to a private or local address",
    WRONG_TYPE: "neither HTML nor plain text",
    TOO_LARGE: "larger than --max_bytes",
    EMPTY: "nothing came",
    BAD_ENCODING: "compressed in a way that cannot be undone",
    DNS_FAILED: "the host has no address",
    CONNECT_FAILED: "no connection",
    TLS_FAILED: "no valid certificate",
    TIMED_OUT: "took too long",
    BROKEN: "the connection broke or the answer was no HTTP",
    RATE_LIMITED: "429 to every attempt",
    SERVER_ERROR: "5xx to every attempt",
    HOST_DOWN: "not tried: the host had stopped answering",
}
# Another attempt on another day may go better: `--retry`.
TRANSIENT = (
    ROBOTS_UNREACHABLE,
    DNS_FAILED,
    CONNECT_FAILED,
    TLS_FAILED,
    TIMED_OUT,
    BROKEN,
    RATE_LIMITED,
    SERVER_ERROR,
    HOST_DOWN,
)
# The host itself is at fault rather than one page of it.
OF_THE_HOST = (DNS_FAILED, CONNECT_FAILED, TLS_FAILED, TIMED_OUT)
