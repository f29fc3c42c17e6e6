"""Where findings go: the log always; a webhook (Slack's format) and e-mail where they are configured.

A channel that fails says so by raising :class:`Undelivered`, in words that hold no secret: a webhook's address is one.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Awaitable, Mapping
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import aiohttp

from gateway import log

if TYPE_CHECKING:
    from gateway.alerts.rules import Finding
    from gateway.config import AlertsConfig, EmailConfig

TIMEOUT_S = 10.0
TRIES = 3
_PAUSE_S = 0.5
_SIGNS = {"info": "ℹ️", "warning": "⚠️", "critical": "🚨"}
_log = log.get(__name__)


class Undelivered(Exception):
    """A channel did not take a message."""


async def deliver(finding: Finding, config: AlertsConfig) -> dict[str, str]:
    """Send to every channel: ``{channel: "sent" | why not}``. Channels that are not configured are left out."""
    severity = "info" if finding.severity == "info" else "warning"
    getattr(_log, severity)("alert", kind=finding.kind, title=finding.title, text=finding.text)
    ways: dict[str, Awaitable[None]] = {}
    if config.webhook:
        ways["webhook"] = _post(config.webhook, message(finding))
    if config.email:
        ways["email"] = asyncio.to_thread(_mail, config.email, finding)
    results = await asyncio.gather(*(_outcome(way) for way in ways.values()))
    outcome: dict[str, str] = {"log": "sent", **dict(zip(ways, results, strict=True))}
    for channel, result in outcome.items():
        if result != "sent":
            _log.error("an alert could not be delivered", channel=channel, reason=result)
    return outcome


async def _outcome(way: Awaitable[None]) -> str:
    try:
        await way
    except Undelivered as error:
        return str(error)
    return "sent"


def message(finding: Finding) -> dict[str, Any]:
    """Slack's incoming webhooks show ``text``; the other fields are for programs."""
    text = f"{_SIGNS[finding.severity]} *{_plain(finding.title)}*\n{_plain(finding.text)}".rstrip()
    return {
        "text": text,
        "kind": finding.kind,
        "severity": finding.severity,
        "title": finding.title,
        "detail": finding.text,
        "key": finding.key,
    }


def _plain(text: str) -> str:
    """Slack's three control characters: a name cannot ping a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


async def _post(url: str, body: Mapping[str, Any]) -> None:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    reason = ""
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for turn in range(TRIES):
            if turn:
                await asyncio.sleep(_PAUSE_S * 2**turn)
            try:
                async with session.post(url, json=dict(body), allow_redirects=False) as reply:
                    if reply.status < 300:
                        return
                    reason = f"the webhook answered {reply.status}"
                    if reply.status < 500 and reply.status != 429:
                        break
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                reason = f"the webhook cannot be reached ({type(error).__name__})"
    raise Undelivered(reason)


def _mail(config: EmailConfig, finding: Finding) -> None:
    """Blocking: run in a thread."""
    mail = EmailMessage()
    mail["From"], mail["To"] = config.sender, ", ".join(config.to)
    mail["Subject"] = " ".join(f"[farthing] {finding.title}".split())
    mail.set_content(f"{finding.title}\n\n{finding.text}\n")
    try:
        with _connected(config) as server:
            if config.username:
                server.login(config.username, config.password or "")
            server.send_message(mail)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise Undelivered(f"the mail server did not take it ({type(error).__name__})") from None


def _connected(config: EmailConfig) -> smtplib.SMTP:
    if config.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(config.host, config.port, timeout=TIMEOUT_S, context=context)
    server = smtplib.SMTP(config.host, config.port, timeout=TIMEOUT_S)
    if config.security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except (smtplib.SMTPException, OSError):
            server.close()
            raise
    return server
