"""A person helps: a stack on a heater-shaker, plates that change places, tips from beside the robot, a late plate."""

from opentrons import protocol_api

metadata = {"protocolName": "Moves by hand"}
requirements = {"robotType": "OT-2", "apiLevel": "2.20"}


def run(ctx: protocol_api.ProtocolContext) -> None:
    tips = ctx.load_labware("opentrons_96_tiprack_300ul", "4")
    spare = ctx.load_labware("opentrons_96_tiprack_300ul", protocol_api.OFF_DECK)
    shaker = ctx.load_module("heaterShakerModuleV1", "1")
    adapter = shaker.load_adapter("opentrons_96_flat_bottom_adapter")
    plate = adapter.load_labware("nest_96_wellplate_200ul_flat")
    cooler = ctx.load_module("temperature module gen2", "3")
    block = cooler.load_adapter("opentrons_96_well_aluminum_block")
    pcr = block.load_labware("nest_96_wellplate_100ul_pcr_full_skirt")
    magnet = ctx.load_module("magnetic module gen2", "6")
    tubes = ctx.load_labware("opentrons_24_tuberack_nest_1.5ml_snapcap", "5", "samples")
    pipette = ctx.load_instrument("p300_single_gen2", "right", tip_racks=[tips])
    shaker.close_labware_latch()
    for number in range(2):
        pipette.transfer(50, tubes["A1"], plate.wells()[number])
    shaker.set_and_wait_for_shake_speed(500)
    ctx.delay(seconds=30)
    shaker.deactivate_shaker()
    shaker.open_labware_latch()
    ctx.move_labware(plate, "9")
    shaker.close_labware_latch()
    ctx.move_labware(pcr, magnet)
    magnet.engage(height_from_base=5)
    ctx.move_labware(tips, protocol_api.OFF_DECK)
    ctx.move_labware(spare, "4")
    pipette.pick_up_tip(spare["A1"])
    pipette.aspirate(20, pcr["A1"])
    pipette.dispense(20, plate["B1"])
    pipette.drop_tip()
    magnet.disengage()
    late = ctx.load_labware("nest_96_wellplate_2ml_deep", "2")
    pipette.pick_up_tip(spare["B1"])
    pipette.aspirate(20, late["A1"])
    pipette.dispense(20, tubes["D6"])
    pipette.return_tip()
    ctx.move_labware(plate, protocol_api.OFF_DECK)
    ctx.pause("Done?")
    ctx.home()
