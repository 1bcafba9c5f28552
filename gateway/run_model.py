"""The model's part of a run: asks it for a step, and hands on what it says."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from gateway.core.turn_effects import CallModel
from gateway.failures import internal_error
from gateway.models.port import CallReady, Finish, ModelError, ModelPiece, TextPiece
from gateway.run_driver import Driver, Finished
from gateway.run_services import RunServices
from protocol.frames import ErrorBody
from stores.ports import StoreError

__all__ = ["ModelPart"]

_SHORTER = 8


class ModelPart:
    """One call at a time."""

    def __init__(self, driver: Driver, services: RunServices) -> None:
        self._driver = driver
        self._services = services
        self._task: asyncio.Task[None] | None = None

    def call(self, effect: CallModel) -> None:
        self._task = self._driver.spawn(self._call(effect))

    def stop(self) -> None:
        """Nobody waits for the answer any more."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _call(self, effect: CallModel) -> None:
        driver = self._driver
        try:
            await self._services.backoff(effect.retry)
            await self._ask(effect.reads)
        except ModelError as error:
            body = ErrorBody(
                code=error.code, message=error.message, retryable=error.retryable, retry_after=error.retry_after
            )
            await driver.step(lambda: driver.machine.failed(body))
        except (StoreError, Finished):
            raise
        except Exception:  # noqa: BLE001 - the boundary to an adapter: its bug ends the turn and leaves it not hanging
            body = internal_error("the model's adapter failed", turn=driver.turn.id)
            await driver.step(lambda: driver.machine.failed(body))

    async def _ask(self, reads: str | None) -> None:
        """Ask the model, with less and less of the conversation where its provider finds it too long."""
        services, driver = self._services, self._driver
        most: float | None = None
        for shorter in range(_SHORTER + 1):
            prompt = await services.assembler.assemble(driver.turn, driver.request, driver.stored, reads, most)
            driver.meter.asked = prompt.tokens
            begun = False
            try:
                with services.stats.step() as first_token:
                    async with aclosing(services.models[driver.request.model].stream(prompt.request)) as pieces:
                        async for piece in pieces:
                            begun = True
                            first_token()
                            if isinstance(piece, Finish) and piece.model is None:
                                prompt.counted(piece.usage)
                            await self._take(piece)
                return
            except ModelError as error:
                if error.code != "context_too_long" or begun or shorter == _SHORTER:
                    raise
                most = 0.75 * prompt.tokens
                prompt.scale.too_low()

    async def _take(self, piece: ModelPiece) -> None:
        driver = self._driver
        if isinstance(piece, TextPiece):
            if driver.busy:
                await driver.step(lambda: driver.machine.text(piece.text, piece.channel))
            else:
                # The hot path: nothing to wait for, so nobody has to be woken.
                driver.say(driver.machine.text(piece.text, piece.channel))
        elif isinstance(piece, CallReady):
            route = await self._services.routes.route(driver.turn.key, driver.request, piece)
            await driver.step(lambda: driver.machine.call(piece.tool, piece.parameters, route))
        else:
            await driver.step(lambda: driver.machine.finish(piece.reason, piece.usage, piece.model))
