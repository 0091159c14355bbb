"""A bead clean-up: magnetic and temperature module, eight channels, mixing, air gaps, waste, tips that are returned."""

from opentrons import protocol_api

metadata = {"protocolName": "Bead clean-up"}
requirements = {"robotType": "OT-2", "apiLevel": "2.16"}


def run(ctx: protocol_api.ProtocolContext) -> None:
    magnet = ctx.load_module("magnetic module gen2", "1")
    plate = magnet.load_labware("nest_96_wellplate_100ul_pcr_full_skirt")
    warmer = ctx.load_module("temperature module gen2", "4")
    block = warmer.load_adapter("opentrons_96_well_aluminum_block")
    elution = block.load_labware("nest_96_wellplate_100ul_pcr_full_skirt")
    reagents = ctx.load_labware("nest_12_reservoir_15ml", "2")
    waste = ctx.load_labware("nest_1_reservoir_195ml", "9")
    racks = [ctx.load_labware("opentrons_96_filtertiprack_200ul", slot) for slot in ("5", "6")]
    pipette = ctx.load_instrument("p300_multi_gen2", "left", tip_racks=racks)
    for column in plate.columns()[:2]:
        pipette.pick_up_tip()
        pipette.aspirate(50, reagents["A1"])
        pipette.air_gap(10)
        pipette.dispense(60, column[0])
        pipette.mix(3, 40, column[0])
        pipette.blow_out(column[0].top())
        pipette.return_tip()
    magnet.engage(height_from_base=6)
    ctx.delay(minutes=3)
    pipette.flow_rate.aspirate = 25
    for number, column in enumerate(plate.columns()[:2]):
        pipette.pick_up_tip(racks[0].columns()[number][0])
        pipette.aspirate(100, column[0])
        pipette.dispense(100, waste["A1"])
        pipette.drop_tip()
    magnet.disengage()
    warmer.set_temperature(37)
    pipette.transfer(30, plate["A1"], elution["A1"], air_gap=5)
    warmer.deactivate()
