"""What every server of adapters promises. A suite inherits `AdapterServerContract` and gives it the fixtures `server`
(without adapters of these names), `folder` (an adapter), `twin` (another one) and `large` (one of rank 64, where 32
is the server's highest)."""

import asyncio
from pathlib import Path

import pytest

from app.domain.errors import AdapterRefused
from app.ports import AdapterServer

NAME = "contract-1"


class AdapterServerContract:
    """The tests; they leave no adapter behind."""

    async def test_loaded_until_it_is_unloaded(self, server: AdapterServer, folder: Path) -> None:
        """Either may be said twice."""
        assert NAME not in await server.loaded()
        try:
            await server.load(NAME, folder)
            await server.load(NAME, folder)
            assert NAME in await server.loaded()
            assert server.base_model not in await server.loaded()
        finally:
            await server.unload(NAME)
        await server.unload(NAME)
        assert NAME not in await server.loaded()

    async def test_loading_at_once_is_loading_once(self, server: AdapterServer, folder: Path) -> None:
        try:
            await asyncio.gather(*(server.load(NAME, folder) for _ in range(4)))
            assert NAME in await server.loaded()
        finally:
            await server.unload(NAME)

    async def test_a_name_stands_for_one_folder(self, server: AdapterServer, folder: Path, twin: Path) -> None:
        try:
            await server.load(NAME, folder)
            with pytest.raises(AdapterRefused):
                await server.load(NAME, twin)
        finally:
            await server.unload(NAME)

    async def test_a_folder_without_an_adapter_is_refused(self, server: AdapterServer, tmp_path: Path) -> None:
        with pytest.raises(AdapterRefused, match=str(tmp_path)):
            await server.load(NAME, tmp_path)
        assert NAME not in await server.loaded()

    async def test_too_large_a_rank_is_refused(self, server: AdapterServer, large: Path) -> None:
        with pytest.raises(AdapterRefused, match="rank"):
            await server.load(NAME, large)
        assert NAME not in await server.loaded()
