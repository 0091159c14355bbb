"""A PCR: thermocycler, tubes on a cooled aluminum block, one single-channel pipette, a loop over samples."""

from opentrons import protocol_api

metadata = {"protocolName": "PCR of four samples"}
requirements = {"robotType": "OT-2", "apiLevel": "2.18"}


def run(ctx: protocol_api.ProtocolContext) -> None:
    cycler = ctx.load_module("thermocycler module gen2")
    plate = cycler.load_labware("opentrons_96_wellplate_200ul_pcr_full_skirt")
    cooler = ctx.load_module("temperature module gen2", 3)
    tubes = cooler.load_labware("opentrons_24_aluminumblock_nest_1.5ml_snapcap")
    tips = ctx.load_labware("opentrons_96_tiprack_20ul", 1)
    pipette = ctx.load_instrument("p20_single_gen2", "right", tip_racks=[tips])
    cooler.set_temperature(4)
    cycler.open_lid()
    for number in range(4):
        pipette.pick_up_tip()
        pipette.aspirate(10, tubes["A1"])
        pipette.dispense(10, plate.wells()[number])
        pipette.touch_tip()
        pipette.drop_tip()
    cycler.close_lid()
    cycler.set_lid_temperature(100)
    cycler.execute_profile(steps=[{"temperature": 94, "hold_time_seconds": 10}], repetitions=3)
    cycler.set_block_temperature(8)
    cycler.deactivate_lid()
    cycler.open_lid()
    ctx.set_rail_lights(True)
