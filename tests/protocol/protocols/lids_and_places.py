"""Lids on plates, moves to places, blowing out into the bin, dropping tips where the pipette is, waste into a plate."""

from opentrons import protocol_api
from opentrons.types import Location, Point

metadata = {"protocolName": "Lids and places"}
requirements = {"robotType": "OT-2", "apiLevel": "2.24"}


def run(ctx: protocol_api.ProtocolContext) -> None:
    tips = ctx.load_labware("opentrons_96_tiprack_300ul", "4")
    plate = ctx.load_labware("corning_96_wellplate_360ul_flat", "1", lid="corning_96_wellplate_360ul_lid")
    waste = ctx.load_labware("nest_1_reservoir_195ml", "3")
    pipette = ctx.load_instrument("p300_multi_gen2", "left", tip_racks=[tips])
    ctx.comment("start")
    ctx.move_lid(plate, protocol_api.OFF_DECK)
    pipette.pick_up_tip()
    pipette.aspirate(50, plate["A1"])
    pipette.dispense(50, ctx.fixed_trash)
    pipette.move_to(Location(Point(200, 190, 100), None))
    pipette.blow_out(ctx.fixed_trash)
    pipette.drop_tip(ctx.fixed_trash, home_after=False)
    pipette.pick_up_tip()
    pipette.drop_tip(waste["A1"])
    ctx.home()
